"""What a request asks of its output, over HTTP and as grammars; outputs of any schema parse and fit."""

import asyncio
import json
import os
import random

import jsonschema
import numpy as np
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.protocol.openai_requests import CompletionBody
from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import InvalidRequestError
from shared.grammar import GrammarCompiler
from tests.gateway.chats import THINKING_TEMPLATE, allows, roomy_gateway, tokenizer_with, writes
from tests.gateway.conftest import CHAT_TEMPLATE, planner
from tests.gateway.test_api import CHAT, client, events
from tests.small_tokenizer import small_metadata

SMALL = tokenizer_from_gguf(small_metadata())
COMPILER = GrammarCompiler(SMALL.to_json, SMALL.eos_token_ids)
PLANNER = planner(SMALL)
PLAIN = tokenizer_with(CHAT_TEMPLATE)
EXAMPLES = int(os.environ.get("GRAMMAR_EXAMPLES", "60"))


def source(**fields: object) -> str:
    body = CompletionBody.parse(json.dumps({"model": "tiny", "prompt": "Hi"} | fields).encode())
    return asyncio.run(PLANNER.text(body)).grammar


def strict(schema: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}}


_PATTERNS = [r"^[a-z]{2,4}$", r"^\d{3}-\d{2}$", r"^(ab|c)+$", "[xy]", r"^#[0-9a-f]{6}$"]
_FORMATS = ["date", "date-time", "time", "uuid", "ipv4", "email"]


@st.composite
def bounds(draw: st.DrawFn) -> dict[str, int]:
    least = draw(st.integers(-50, 1000))
    most = least + draw(st.integers(2, 500))
    lower, upper = (
        draw(st.sampled_from(["minimum", "exclusiveMinimum"])),
        draw(st.sampled_from(["maximum", "exclusiveMaximum"])),
    )
    wanted = draw(st.sampled_from([(lower, upper), (lower,), (upper,), ()]))
    return {name: value for name, value in {lower: least, upper: most}.items() if name in wanted}


@st.composite
def lengths(draw: st.DrawFn, least: str, most: str, limit: int) -> dict[str, int]:
    low = draw(st.integers(0, limit))
    high = low + draw(st.integers(0, limit))
    return draw(st.sampled_from([{}, {least: low}, {most: high}, {least: low, most: high}]))


SCALARS = st.one_of(
    st.sampled_from([{"type": "null"}, {"type": "boolean"}, {"type": ["string", "null"]}, {"const": {"a": [1, "b"]}}]),
    lengths("minLength", "maxLength", 8).map(lambda limits: {"type": "string"} | limits),
    st.sampled_from(_PATTERNS).map(lambda pattern: {"type": "string", "pattern": pattern}),
    st.sampled_from(_FORMATS).map(lambda form: {"type": "string", "format": form}),
    bounds().map(lambda limits: {"type": "integer"} | limits),
    bounds().map(lambda limits: {"type": "number"} | limits),
    st.lists(st.sampled_from(["a", "é\n", 3, 1.5, True, None]), min_size=1, max_size=4, unique_by=repr).map(
        lambda values: {"enum": values}
    ),
)


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[dict]) -> dict[str, object]:
    properties = draw(st.dictionaries(st.sampled_from(["a", "b c", "é", "name", "$x"]), inner, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    others = draw(st.sampled_from([False, {"type": "integer"}]))
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": others}


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[dict]) -> dict[str, object]:
    return {"type": "array", "items": draw(inner)} | draw(lengths("minItems", "maxItems", 3))


REFERENCES = st.sampled_from([{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/tree"}])
SCHEMAS = st.recursive(
    SCALARS | REFERENCES,
    lambda inner: (
        objects(inner) | arrays(inner) | st.lists(inner, min_size=1, max_size=3).map(lambda of: {"anyOf": of})
    ),
    max_leaves=6,
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    leaf = draw(SCALARS)
    tree = {
        "type": "object",
        "properties": {"leaf": {"$ref": "#/$defs/leaf"}, "more": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        "required": ["leaf"],
        "additionalProperties": False,
    }
    return draw(SCHEMAS) | {"$defs": {"leaf": leaf, "tree": tree}}


def random_output(grammar: str, seed: int, *, num_free: int = 60, limit: int = 1500) -> str:
    """Tokens of random logits; after the first ones, those that come to an end are preferred."""
    state, rng = COMPILER.compile(grammar), random.Random(seed)
    mask = np.zeros(COMPILER.num_words, np.uint32)
    wishes = [[token for mark in marks for token in SMALL.encode(mark)] for marks in ('"', "x@.}]", ",")]
    wishes[0] += SMALL.eos_token_ids
    output = list[int]()
    while not state.is_complete:
        assert len(output) < limit, SMALL.decode(output)
        state.allowed(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        found = [[token for token in wish if token in allowed] for wish in wishes]
        preferred = next(filter(None, found), [])
        is_free = len(output) < num_free or not preferred or rng.random() < 0.1
        token = rng.choice(allowed if is_free else preferred)
        if token in SMALL.eos_token_ids:
            assert state.is_accepting
            break
        state.accept([token])
        output.append(token)
    return SMALL.decode(output)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.integers(0, 2**32))
def test_any_output_of_any_schema_parses_and_fits(schema: dict[str, object], seed: int) -> None:
    value = json.loads(random_output(source(**strict(schema)), seed))
    jsonschema.validate(
        value, schema, jsonschema.Draft202012Validator, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )


@pytest.mark.parametrize("seed", range(5))
def test_any_object_is_an_object(seed: int) -> None:
    grammar = source(response_format={"type": "json_object"})
    assert isinstance(json.loads(random_output(grammar, seed)), dict)
    assert isinstance(json.loads(random_output(source(structured_outputs={"json_object": True}), seed)), dict)


GBNF = 'root ::= "SELECT " column ("," column)*\ncolumn ::= [a-z]{1,3}'
LARK = 'start: WORD (" " WORD)*\nWORD: /[a-z]+/'
FORMS = [
    ({"structured_outputs": {"regex": r"\d{3}-[ab/]+"}}, ["123-ab/"], ["123-", "x123-a"]),
    ({"guided_regex": r"^é+$"}, ["éé"], ["", "e"]),
    ({"structured_outputs": {"choice": ["yes", 'a "no"\n', "<|im_end|>"]}}, ["yes", 'a "no"\n'], ["no", "yes "]),
    ({"guided_choice": ["in", "inn"]}, ["in", "inn"], ["i"]),
    ({"structured_outputs": {"grammar": GBNF}}, ["SELECT ab,c"], ["SELECT abcd", "SELECT "]),
    ({"guided_grammar": LARK}, ["a bc"], ["a  b", "A"]),
    ({"structured_outputs": {"json": '{"type": "integer"}'}}, ["12"], ['"12"', "1.5"]),
    ({"guided_json": {"type": "array"}}, ["[1, {}]"], ["{}"]),
    ({"structured_outputs": {"json": {"type": "array"}, "disable_any_whitespace": True}}, ["[1,2]"], ["[1, 2]"]),
    ({"guided_json": {"type": "array"}, "guided_whitespace_pattern": " {2}"}, ["[  1  ,  2  ]", "[1]"], ["[ 1 ]"]),
    (
        {"structured_outputs": {"json": {"properties": {"a": {}}}, "disable_additional_properties": True}},
        ['{"a": 1}', "{}"],
        ['{"b": 1}'],
    ),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, ['{"a": [1]}'], ["[]"]),
]


@pytest.mark.parametrize(("fields", "good", "bad"), FORMS)
def test_each_form_allows_what_it_says(fields: dict[str, object], good: list[str], bad: list[str]) -> None:
    grammar = source(**fields)
    for text in good:
        assert allows(SMALL, grammar, text), text
    for text in bad:
        assert not allows(SMALL, grammar, text), text


def test_what_cannot_be_enforced_is_an_error_only_where_it_is_strict() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    with pytest.raises(InvalidRequestError, match="uniqueItems"):
        source(**strict(schema))
    loose = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert allows(SMALL, source(response_format=loose), "[1, 1]")
    assert not allows(SMALL, source(response_format=loose), '["a"]')


def test_white_space_has_an_end() -> None:
    grammar = source(response_format={"type": "json_object"})
    assert allows(SMALL, grammar, '{\n    "a": [\n        1, 2]\n}')
    assert not allows(SMALL, grammar, '{\n\n"a": 1}')
    assert not allows(SMALL, grammar, "{" + " " * 60 + "}")


BOMB = {
    "allOf": [
        {"anyOf": [{"properties": {f"p{i}{j}": {"type": "integer"}}, "required": [f"p{i}{j}"]} for j in range(4)]}
        for i in range(6)
    ]
}
WRONG = {
    "an unknown type": (strict({"type": "strange"}), "response_format"),
    "an explosion": (strict(BOMB), "response_format"),
    "no output": (strict({"$ref": "#"}), "response_format"),
    "deep nesting": (strict(json.loads('{"items":' * 150 + "{}" + "}" * 150)), "response_format"),
    "too large": (strict({"enum": [f"{i:020}" for i in range(20_000)]}), "response_format"),
    "a schema that is no object": (strict([]), "response_format.json_schema.schema"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format"),
    "an unknown format": ({"response_format": {"type": "xml"}}, "response_format.type"),
    "a bad pattern": ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
    "a slow pattern": ({"guided_regex": "(([a-z]{0,99}x?){0,99}y?){0,99}(a|b{99})+(.*c){99}"}, "guided_regex"),
    "a bad grammar": ({"structured_outputs": {"grammar": "root ::= nowhere"}}, "structured_outputs.grammar"),
    "another bad grammar": ({"structured_outputs": {"grammar": "start: /("}}, "structured_outputs.grammar"),
    "much GBNF": ({"guided_grammar": "root ::= " + " | ".join(f'"{i}"' for i in range(2000))}, "guided_grammar"),
    "no choice": ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    "nothing": ({"structured_outputs": {}}, "structured_outputs"),
    "two things": ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
    "two fields": ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
    "JSON that is none": ({"guided_json": "{"}, "guided_json"),
}


async def test_a_bad_form_fails_its_own_request_and_says_which_field() -> None:
    async with roomy_gateway(PLAIN, writes(PLAIN, "fine")) as gateway:

        async def post(fields: dict[str, object]) -> tuple[int, object]:
            response = await gateway.http.post("/v1/chat/completions", json=CHAT | fields)
            return response.status_code, response.json().get("error", {}).get("param")

        good = [asyncio.create_task(post({})) for _ in range(5)]
        answers = dict(zip(WRONG, await asyncio.gather(*(post(fields) for fields, _ in WRONG.values())), strict=True))
        del answers["a slow pattern"]  # it may just compile, and then fail at a worker
        assert answers == {name: (400, param) for name, (_, param) in WRONG.items() if name in answers}
        assert await asyncio.gather(*good) == [(200, None)] * 5


async def test_compiling_does_not_hold_up_other_requests() -> None:
    async with roomy_gateway(PLAIN, writes(PLAIN, "fine")) as gateway:
        large = strict({"properties": {f"p{i}": {"type": ["integer", "null"]} for i in range(3000)}})
        compiling = asyncio.create_task(gateway.http.post("/v1/chat/completions", json=CHAT | large))
        num_answered = 0
        while not compiling.done():
            assert (await gateway.http.get("/ping")).is_success
            num_answered += 1
        assert compiling.result().is_success
        assert num_answered >= 5


class Person(pydantic.BaseModel):
    name: str
    age: int | None
    friends: list["Person"]


async def test_the_official_client_parses_into_models() -> None:
    text = '{"name": "Ada", "age": 36, "friends": [{"name": "Charles", "age": null, "friends": []}]}'
    async with roomy_gateway(PLAIN, writes(PLAIN, text)) as gateway, client(gateway) as api:
        answer = await api.chat.completions.parse(
            model="tiny", messages=[{"role": "user", "content": "Who?"}], response_format=Person
        )
        assert answer.choices[0].message.parsed == Person.model_validate_json(text)
        grammar = gateway.pool.submits[-1].sampling.grammar
        assert allows(PLAIN, grammar, text)
        assert not allows(PLAIN, grammar, text.replace("36", '"36"'))


async def test_the_form_begins_after_the_reasoning() -> None:
    tokenizer = tokenizer_with(THINKING_TEMPLATE + "{# </think> #}")
    body = CHAT | {"response_format": {"type": "json_object"}}
    async with roomy_gateway(tokenizer, writes(tokenizer, 'Hm.\n</think>\n\n{"a": 1}')) as gateway:
        answer = (await gateway.http.post("/v1/chat/completions", json=body)).json()
        message = answer["choices"][0]["message"]
        expected = {"role": "assistant", "content": '{"a": 1}', "reasoning": "Hm.", "reasoning_content": "Hm."}
        assert message == expected
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == len("Hm.\n</think>")
        chunks = events((await gateway.http.post("/v1/chat/completions", json=body | {"stream": True})).text)
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("reasoning", "") for delta in deltas) == "Hm."
        assert "".join(delta.get("content", "") for delta in deltas) == '{"a": 1}'
        hidden = (await gateway.http.post("/v1/chat/completions", json=body | {"include_reasoning": False})).json()
        assert hidden["choices"][0]["message"] == {"role": "assistant", "content": '{"a": 1}'}
        grammar = gateway.pool.submits[-1].sampling.grammar
        assert allows(tokenizer, grammar, 'So, {"x.\n</think>\n\n{"a": 1}')
        assert not allows(tokenizer, grammar, "Hm.</think>\n\nHello")


async def test_a_completion_follows_its_form_too(byte_tokenizer: Tokenizer) -> None:
    async with roomy_gateway(byte_tokenizer, writes(byte_tokenizer, "12")) as gateway:
        body = {"model": "tiny", "prompt": "1 + 11 =", "ignore_eos": True, "structured_outputs": {"regex": "[0-9]+"}}
        assert (await gateway.http.post("/v1/completions", json=body)).json()["choices"][0]["text"] == "12"
        sampling = gateway.pool.submits[-1].sampling
        assert allows(byte_tokenizer, sampling.grammar, "12")
        assert sampling.stop_token_ids == byte_tokenizer.eos_token_ids  # where the form may end, it can
