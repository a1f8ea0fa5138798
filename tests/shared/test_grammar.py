"""Which tokens a grammar lets follow, what it refuses to compile, and that its state is a function of the tokens."""

import json
import threading
import time

import numpy as np
import pytest

from shared.errors import CheckpointError, GrammarError
from shared.grammar import GrammarCompiler, GrammarState
from tests.small_tokenizer import EOS, small_tokenizer

TOKENIZER = small_tokenizer()
END = TOKENIZER.token_to_id(EOS)
PERSON = 'start: %json {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(TOKENIZER.to_str, [END])


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False).ids)


def allowed(compiler: GrammarCompiler, state: GrammarState) -> set[int]:
    mask = np.zeros(compiler.num_words, np.uint32)
    state.allowed(mask)
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def texts(tokens: set[int]) -> set[str]:
    return {TOKENIZER.decode([token]) for token in tokens}


def test_the_mask_names_what_may_follow(compiler: GrammarCompiler) -> None:
    state = compiler.compile('start: "true" | "12" /[0-9]/')
    assert texts(allowed(compiler, state)) == {"t", "tr", "tru", "true", "1", "12", "123"}
    state.accept(ids("12"))
    assert texts(allowed(compiler, state)) == set("0123456789")
    assert not state.is_accepting
    state.accept(ids("9"))
    assert state.is_accepting
    assert state.is_complete


def test_an_output_may_end_before_it_must(compiler: GrammarCompiler) -> None:
    state = compiler.compile("start: /a+/")
    assert not state.is_accepting
    state.accept(ids("aa"))
    assert state.is_accepting
    assert not state.is_complete


def test_a_token_that_is_not_allowed_is_refused(compiler: GrammarCompiler) -> None:
    state = compiler.compile("start: /a+/")
    with pytest.raises(GrammarError):
        state.accept(ids("b"))
    with pytest.raises(GrammarError):
        state.allowed(np.zeros(compiler.num_words, np.uint32))


def test_special_tokens_are_no_text(compiler: GrammarCompiler) -> None:
    state = compiler.compile("start: /(.|\\n)+/")
    mark = TOKENIZER.token_to_id("[TOOL_CALLS]")
    assert mark not in allowed(compiler, state)
    assert allowed(compiler, compiler.compile(f'start: <[{mark}]> "a"')) == {mark}


def test_the_state_is_a_function_of_the_tokens(compiler: GrammarCompiler) -> None:
    output = ids('{"name": "the\\n éa12", "in": [true, null]')
    once, stepwise = compiler.compile(PERSON), compiler.compile(PERSON)
    for token in output:
        assert token in allowed(compiler, stepwise)
        stepwise.accept([token])
    once.accept(output)
    assert allowed(compiler, once) == allowed(compiler, stepwise)
    # What one output does leaves another one of the same grammar alone.
    assert texts(allowed(compiler, compiler.compile(PERSON))) <= {"{", '{"'}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("start: ", None),
        ("start: nowhere", "unknown name"),
        ("start: /(/", "regex"),
        ('start: %json {"type": "strin"}', "Invalid type: strin"),
        ('start: %json {"not": {}}', "Unimplemented keys"),
        ('start: %json {"$ref": "#"}', "allows no output"),
        ('start: %json {"type": "integer", "multipleOf": 982451653}', "fuel exhausted"),
    ],
)
def test_what_does_not_compile_says_why(compiler: GrammarCompiler, source: str, reason: str | None) -> None:
    if reason is None:
        assert compiler.compile(source).is_accepting
        return
    with pytest.raises(GrammarError, match=reason) as caught:
        compiler.compile(source)
    assert "\n" not in str(caught.value)


def test_an_explosive_grammar_is_given_up_in_time(compiler: GrammarCompiler) -> None:
    alternatives = [
        {"anyOf": [{"properties": {f"p{i}{j}": {"type": "integer"}}, "required": [f"p{i}{j}"]} for j in range(5)]}
        for i in range(6)
    ]
    started = time.process_time()
    with pytest.raises(GrammarError, match=r"too (big|large)"):
        compiler.compile("start: %json " + json.dumps({"allOf": alternatives}))
    assert time.process_time() - started < 5


def test_steps_of_an_explosive_grammar_are_given_up(compiler: GrammarCompiler) -> None:
    state = compiler.compile('start: %json {"type": "string", "pattern": "^(([a-z]{0,50}x?){0,50}y?){0,50}$"}')
    with pytest.raises(GrammarError, match="too many"):  # noqa: PT012 - at which step does not matter
        state.accept(ids('"'))
        for _ in range(200):
            allowed(compiler, state)
            state.accept(ids("a"))


def test_many_threads_compile_at_once(compiler: GrammarCompiler) -> None:
    masks: list[set[int]] = []

    def work(number: int) -> None:
        state = compiler.compile(f'start: "a{number % 40}"')
        state.accept(ids("a"))
        masks.append(allowed(compiler, state))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(masks) == 80
    assert all(masks)


def test_a_tokenizer_that_is_not_there_fails_grammars_only() -> None:
    def missing() -> str:
        raise CheckpointError("no tokenizer.json")

    compiler = GrammarCompiler(missing, [])
    compiler.prepare()
    with pytest.raises(GrammarError, match=r"no tokenizer\.json"):
        compiler.compile("start: ")


def test_ends_are_allowed_where_the_output_may_end(compiler: GrammarCompiler) -> None:
    assert END not in allowed(compiler, compiler.compile("start: /a/"))
    state = compiler.compile("start: /a*/")
    assert END in allowed(compiler, state)
    state.accept([END])
    assert state.is_complete
