"""Reasoning and answer: where one ends and the other begins, wherever the text is cut."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat.message_parser import MessageDelta, MessageParser
from gateway.chat.reasoning import FORMATS, ReasoningSplitter, Start
from gateway.tool_calls.hermes import HermesParser

THINK = FORMATS["qwen3"]


def read(start: Start, pieces: Iterable[str], *, with_calls: bool = False) -> tuple[str, str, list[str]]:
    parser = MessageParser(ReasoningSplitter(THINK, start), HermesParser() if with_calls else None)
    deltas = [*(parser.push(piece) for piece in pieces), parser.finish()]
    calls = [f"{delta.name or ''}{delta.arguments}" for part in deltas for delta in part.calls]
    return "".join(delta.reasoning for delta in deltas), "".join(delta.content for delta in deltas), calls


CASES: list[tuple[Start, str, tuple[str, str]]] = [
    ("inside", "\nHmm.\n\nSo.\n</think>\n\nYes.\n", ("Hmm.\n\nSo.", "Yes.\n")),
    ("inside", "Hmm.</think>Yes.", ("Hmm.", "Yes.")),
    ("inside", "<think>Hmm.</think>Yes.", ("Hmm.", "Yes.")),
    ("inside", "Hmm. <think> </thi", ("Hmm. <think> </thi", "")),
    ("inside", "</think>Yes.", ("", "Yes.")),
    ("maybe", " <think>\nHmm.\n</think>\n\nYes.", ("Hmm.", "Yes.")),
    ("maybe", "Yes. <think>no</think>", ("", "Yes. <think>no</think>")),
    ("maybe", "  Yes.", ("", "  Yes.")),
    ("maybe", " <thin", ("", " <thin")),
    ("maybe", "\n", ("", "\n")),
    ("maybe", "<think>", ("", "")),
    ("outside", "\n<think>x</think>", ("", "\n<think>x</think>")),
    ("inside", "", ("", "")),
]


@pytest.mark.parametrize(("start", "text", "parts"), CASES)
def test_what_a_text_means_wherever_it_is_cut(start: Start, text: str, parts: tuple[str, str]) -> None:
    assert read(start, [text]) == (*parts, [])
    assert read(start, text) == (*parts, [])
    for cut in range(len(text) + 1):
        assert read(start, [text[:cut], text[cut:]]) == (*parts, [])


PIECES = st.sampled_from(["<think>", "</think>", "<", "think>", "</th", "\n", "Hmm", "<tool_call>", '{"name": "f"}'])


@settings(max_examples=60)
@given(st.sampled_from(["inside", "maybe", "outside"]), st.lists(PIECES, max_size=10).map("".join), st.data())
def test_any_text_means_the_same_however_it_is_cut(start: Start, text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(start, pieces, with_calls=True)[:2] == read(start, [text], with_calls=True)[:2]


def test_calls_are_read_in_the_answer_alone() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    reasoning, content, calls = read("inside", [f"{call}\n</think>\n\n{call}"], with_calls=True)
    assert (reasoning, content, calls) == (call, "", ["f{}"])


def test_a_parser_says_what_is_reasoning() -> None:
    parser = MessageParser(ReasoningSplitter(THINK, "maybe"), None)
    assert parser.push("<thi") == MessageDelta()
    assert (parser.is_reasoning, parser.has_reasoned) == (True, False)
    assert parser.push("nk>so") == MessageDelta(reasoning="so")
    assert (parser.is_reasoning, parser.has_reasoned) == (True, True)
    assert parser.push("</think>") == MessageDelta()
    assert (parser.is_reasoning, parser.has_reasoned) == (False, True)


@pytest.mark.parametrize(
    ("prompt", "of_qwen3", "of_deepseek_r1"),
    [
        ("<|im_start|>assistant\n", "maybe", "inside"),
        ("<|im_start|>assistant\n<think>\n", "inside", "inside"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", "outside", "outside"),
        ("assistant\n<think>\nEarlier.\n</think>\nYes.\nuser\nAnd?\nassistant\n", "maybe", "inside"),
    ],
)
def test_the_prompt_says_how_an_output_begins(prompt: str, of_qwen3: Start, of_deepseek_r1: Start) -> None:
    assert FORMATS["qwen3"].start_after(prompt) == of_qwen3
    assert FORMATS["deepseek_r1"].start_after(prompt) == of_deepseek_r1
