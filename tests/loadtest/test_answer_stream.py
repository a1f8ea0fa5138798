from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.answer_stream import AnswerStream
from tests.loadtest.conftest import event, text_event

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
WHOLE = (
    b": keep-alive\n\n"
    + text_event("höl")
    + text_event("")
    + text_event("lo")
    + event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    + event({"choices": [], "usage": USAGE})
    + b"data: [DONE]\n\n"
)


def read(*pieces: bytes) -> AnswerStream:
    """Piece i comes at second i."""
    answer = AnswerStream()
    for now_s, piece in enumerate(pieces):
        answer.push(piece, float(now_s))
    return answer


def delta(**fields: object) -> bytes:
    finish_reason = fields.pop("finish_reason", None)
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


@given(st.sets(st.integers(0, len(WHOLE))), st.booleans())
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: set[int], has_carriage_returns: bool) -> None:
    whole = WHOLE.replace(b"\n", b"\r\n") if has_carriage_returns else WHOLE
    edges = [0, *sorted(cuts), len(whole)]
    answer = read(*(whole[start:end] for start, end in pairwise(edges)))

    assert answer.text == "höllo"
    assert len(answer.chunk_times_s) == 3
    assert (answer.num_prompt_tokens, answer.num_output_tokens) == (11, 7)
    assert answer.is_finished
    assert answer.error is None


def test_output_is_timed_by_its_last_byte() -> None:
    first = text_event("a")

    assert read(first[:-3], first[-3:], text_event("b") + text_event("c")).chunk_times_s == [1.0, 2.0, 2.0]


def test_the_role_and_the_end_of_a_chat_are_no_output() -> None:
    answer = read(
        delta(role="assistant", content=""),
        delta(content="Hi"),
        delta(reasoning_content="hm"),
        delta(finish_reason="stop"),
    )

    assert answer.chunk_times_s == [1.0, 2.0]
    assert answer.text == "Hihm"
    assert answer.is_finished


def test_an_answer_whose_only_token_ends_it_has_a_first_token() -> None:
    assert read(delta(role="assistant"), delta(finish_reason="stop")).chunk_times_s == [1.0]


def test_an_error_in_the_stream_is_kept() -> None:
    answer = read(text_event("a"), event({"error": {"message": "worker died"}}))

    assert answer.error == '{"message":"worker died"}'
    assert not answer.is_finished


def test_what_is_no_chunk_raises() -> None:
    with pytest.raises(msgspec.DecodeError):
        read(b"data: <html>\n\n")
