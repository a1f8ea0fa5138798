"""Calls out of text: what each format means, and that it means the same wherever the text is cut."""

import json
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.tool_calls.hermes import HermesParser
from gateway.tool_calls.llama3_json import Llama3JsonParser
from gateway.tool_calls.mistral import MistralParser
from gateway.tool_calls.parsed import CallParser, Parsed

NAMES = ("get_weather", "f")
Message = tuple[str, list[tuple[str, str]]]
"""Content, and calls with their arguments' text."""

PARSERS: dict[str, Callable[[], CallParser]] = {
    "hermes": HermesParser,
    "llama3_json": lambda: Llama3JsonParser(NAMES),
    "mistral": MistralParser,
}


def read(parser: CallParser, pieces: Iterable[str]) -> Message:
    parsed = [*(parser.push(piece) for piece in pieces), parser.finish()]
    return fold(parsed)


def fold(parsed: Iterable[Parsed]) -> Message:
    content, calls = "", list[tuple[str, str]]()
    for part in parsed:
        content += part.content
        for delta in part.calls:
            if delta.name is not None:
                assert delta.call == len(calls)
                calls.append((delta.name, ""))
            name, arguments = calls[delta.call]
            calls[delta.call] = (name, arguments + delta.arguments)
    return content, calls


ARGS = '{"city": "Paris \\"}{<", "days": [1, {"a": null}]}'
CALL = f'{{"name": "get_weather", "arguments": {ARGS}}}'
UNUSUAL = '<tool_call>\n{"parameters": {}, "id": [1], "name": "f"}\n</tool_call>'
CASES: list[tuple[str, str, Message]] = [
    ("hermes", "Hello.", ("Hello.", [])),
    ("hermes", "Hello <tool", ("Hello <tool", [])),
    ("hermes", "Hello. \n", ("Hello. \n", [])),
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>", ("", [("get_weather", ARGS)])),
    ("hermes", f"Sure.\n\n<tool_call>{CALL}</tool_call>\n", ("Sure.", [("get_weather", ARGS)])),
    (
        "hermes",
        f"A <tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{{'name': 1}}\n</tool_call>\n{UNUSUAL} B",
        ("A\n<tool_call>\n{'name': 1}\n</tool_call> B", [("get_weather", ARGS), ("f", "{}")]),
    ),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', ("", [("f", "{}")])),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', ("", [("f", '{"a": 1}')])),
    ("hermes", '<tool_call>{"name": "f", "arguments": null}</tool_call>', ("", [("f", "{}")])),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "b', ("", [("f", '{"a": "b')])),
    ("hermes", '<tool_call>{"nam', ('<tool_call>{"nam', [])),
    ("hermes", "<tool_call> nothing </tool_call>", ("<tool_call> nothing </tool_call>", [])),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}} <tool_call>{"name": "g"}', ("", [("f", "{}"), ("g", "{}")])),
    ("hermes", '<tool_call>{"name": "f", "arguments": 12.5}</tool_call>', ("", [("f", "12.5")])),
    ("hermes", f"<tool_call>{CALL},</tool_call> x", (" x", [("get_weather", ARGS)])),
    ("llama3_json", "Hello.", ("Hello.", [])),
    ("llama3_json", CALL, ("", [("get_weather", ARGS)])),
    (
        "llama3_json",
        f' <|python_tag|>{{"name": "f", "parameters": {ARGS}}}; {CALL}',
        ("", [("f", ARGS), ("get_weather", ARGS)]),
    ),
    ("llama3_json", '{"name": "unknown", "parameters": {}}', ('{"name": "unknown", "parameters": {}}', [])),
    ("llama3_json", '{"answer": 42}', ('{"answer": 42}', [])),
    ("llama3_json", "{not JSON", ("{not JSON", [])),
    ("llama3_json", "\n <|pyth", ("\n <|pyth", [])),
    ("llama3_json", "x <|python_tag|> {", ("x <|python_tag|> {", [])),
    ("llama3_json", f"{CALL} and more", ("and more", [("get_weather", ARGS)])),
    ("mistral", "Hello [TOOL", ("Hello [TOOL", [])),
    ("mistral", f"[TOOL_CALLS] [{CALL}]", ("", [("get_weather", ARGS)])),
    ("mistral", f"Well.\n[TOOL_CALLS][{CALL}, {CALL} ] ", ("Well.", [("get_weather", ARGS)] * 2)),
    ("mistral", f"[TOOL_CALLS]get_weather[ARGS]{ARGS}", ("", [("get_weather", ARGS)])),
    ("mistral", f"[TOOL_CALLS]f{ARGS}[TOOL_CALLS]f[CALL_ID]a1b2[ARGS] {ARGS}", ("", [("f", ARGS)] * 2)),
    ("mistral", "[TOOL_CALLS] what? {", ("[TOOL_CALLS] what? {", [])),
    ("mistral", "[TOOL_CALLS] what", ("[TOOL_CALLS] what", [])),
    ("mistral", '[TOOL_CALLS] [{"nom": 1}]', ('[TOOL_CALLS] [{"nom": 1}]', [])),
    ("mistral", '[TOOL_CALLS]f[ARGS]{"a": "', ("", [("f", '{"a": "')])),
]


@pytest.mark.parametrize(("form", "text", "message"), CASES)
def test_what_a_text_means(form: str, text: str, message: Message) -> None:
    assert read(PARSERS[form](), [text]) == message


@pytest.mark.parametrize(("form", "text", "message"), CASES)
def test_every_cut_and_every_character_on_its_own_mean_the_same(form: str, text: str, message: Message) -> None:
    assert read(PARSERS[form](), text) == message
    for cut in range(len(text) + 1):
        assert read(PARSERS[form](), [text[:cut], text[cut:]]) == message


WORDS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "<tool_", "Hello"),
    *("[", "]", "{", "}", ",", ":", ";", '"', "\\", "1", "null", "f", "é"),
    *('"name"', '"arguments"', '"parameters"', '"f"', '"get_weather"'),
]
PIECES = st.sampled_from([*WORDS, " ", "\n", CALL, ARGS, '{"name": "f", "arguments": {'])


@given(st.lists(PIECES, max_size=12).map("".join), st.data())
@pytest.mark.parametrize("form", PARSERS)
def test_any_text_means_the_same_however_it_is_cut(form: str, text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(PARSERS[form](), pieces) == read(PARSERS[form](), [text])


TEXT = st.text('a{}[]"\\\n<> é\0,:', max_size=6)
JSON = st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT, max_size=2) | st.dictionaries(TEXT, TEXT)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), st.dictionaries(TEXT, JSON, max_size=3)), min_size=1, max_size=3)


@settings(max_examples=50)
@given(CALLS, st.booleans())
@pytest.mark.parametrize("form", PARSERS)
def test_calls_that_are_written_right_come_out_whole(
    form: str, calls: list[tuple[str, dict[str, object]]], is_ascii: bool
) -> None:
    def encoded(key: str) -> list[str]:
        return [json.dumps({"name": name, key: args}, ensure_ascii=is_ascii) for name, args in calls]

    text = {
        "hermes": "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in encoded("arguments")),
        "llama3_json": "; ".join(encoded("parameters")),
        "mistral": f"[TOOL_CALLS][{', '.join(encoded('arguments'))}]",
    }[form]
    content, found = read(PARSERS[form](), text)
    assert content == ""
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


@pytest.mark.parametrize("form", ["hermes", "mistral"])
def test_calls_beyond_the_limit_are_dropped(form: str) -> None:
    text = {
        "hermes": f'<tool_call>{CALL}</tool_call><tool_call>{{"name": "f", "arguments": {ARGS}}}</tool_call> end',
        "mistral": f"[TOOL_CALLS]get_weather[ARGS]{ARGS}[TOOL_CALLS]f[ARGS]{ARGS} end",
    }[form]
    parser = HermesParser(max_calls=1) if form == "hermes" else MistralParser(max_calls=1)
    assert read(parser, text) == (" end", [("get_weather", ARGS)])
