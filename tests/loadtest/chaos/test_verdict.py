"""Whatever goes wrong with an answer is found, and called by its name."""

import msgspec
import pytest

from loadtest.chaos.answer import Answer
from loadtest.chaos.oracle import Truth
from loadtest.chaos.requests import ChaosRequest
from loadtest.chaos.verdict import Differences, Verdict, compare

RIGHT = list(range(100, 120))
REQUEST = ChaosRequest(3, "greedy", "/v1/completions", {"max_tokens": 20, "n": 1})
TRUTH = Truth(tuple(RIGHT), "text", "length")


@pytest.mark.parametrize(
    ("got", "differences"),
    [
        (RIGHT, Differences()),
        (RIGHT[:-3], Differences(num_lost=3)),
        (RIGHT[:5] + RIGHT[7:], Differences(num_lost=2)),
        (RIGHT[:5] + RIGHT[2:], Differences(num_doubled=3)),
        ([*RIGHT[:5], 7, *RIGHT[6:]], Differences(num_wrong=1)),
        ([*RIGHT[:5], 7, 8, *RIGHT[5:]], Differences(num_wrong=2)),
        ([*RIGHT[:5], RIGHT[6], RIGHT[5], *RIGHT[7:]], Differences(num_lost=1, num_wrong=1)),
        ([], Differences(num_lost=20)),
    ],
    ids=["right", "cut off", "a gap", "doubled", "another", "extra", "swapped", "nothing"],
)
def test_each_way_to_be_wrong_has_its_name(got: list[int], differences: Differences) -> None:
    assert compare(RIGHT, got) == differences


def _answer(**changes: object) -> Answer:
    answer = Answer(REQUEST, 0.0)
    (choice,) = answer.choices
    choice.token_ids, choice.text, choice.finish_reason = list(RIGHT), "text", "length"
    answer.request_id, answer.is_complete, answer.num_told_tokens = "cmpl-1", True, len(RIGHT)
    for name, value in changes.items():
        setattr(choice if hasattr(choice, name) else answer, name, value)
    return answer


def test_a_right_answer_has_no_fault() -> None:
    verdict = Verdict()
    verdict.judge(_answer(), [TRUTH])

    assert (verdict.num_answers, verdict.num_tokens, verdict.faulty) == (1, 20, [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_complete": False}, "did not end"),
        ({"error": "no", "is_complete": False}, "ended with no"),
        ({"is_broken": True, "is_complete": False}, "its connection broke off"),
        ({"num_told_tokens": 19}, "has 20 tokens, and its usage says 19"),
        ({"text": "texf"}, "the tokens are right, their text is not"),
        ({"finish_reason": "stop"}, "ended by 'stop' instead of 'length'"),
        ({"logprobs": [-1.0]}, "the tokens are right, their log-probabilities are not"),
        ({"token_ids": RIGHT[:9] + RIGHT[11:]}, "2 lost, 0 doubled, 0 wrong of 20 tokens, from place 9 on"),
    ],
)
def test_a_faulty_answer_is_described(changes: dict[str, object], reason: str) -> None:
    verdict = Verdict()
    verdict.judge(_answer(**changes), [TRUTH])

    (described,) = verdict.faulty
    assert described.startswith("request 3 (greedy, cmpl-1): ")
    assert reason in described


def test_of_a_stream_that_may_break_off_what_came_must_be_right() -> None:
    broken = {"is_broken": True, "is_complete": False}
    verdict = Verdict()
    verdict.judge(_answer(token_ids=RIGHT[:7], **broken), [TRUTH], may_break=True)
    assert (verdict.num_broken, verdict.faulty) == (1, [])

    verdict.judge(_answer(token_ids=RIGHT[:7] + RIGHT[6:9], **broken), [TRUTH], may_break=True)
    assert verdict.differences == Differences(num_lost=1, num_doubled=1)


def test_an_answer_is_read_from_bytes_cut_anywhere() -> None:
    chunks = [
        {
            "id": "cmpl-9",
            "choices": [{"index": 0, "text": "a", "token_ids": [5], "logprobs": {"token_logprobs": [-1]}}],
        },
        {"id": "cmpl-9", "choices": [{"index": 0, "text": "", "finish_reason": "length"}]},
        {"id": "cmpl-9", "choices": [], "usage": {"completion_tokens": 1}},
    ]
    stream = b"".join(b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    answer = Answer(REQUEST, 0.0)
    for place in range(len(stream)):
        answer.push(stream[place : place + 1], float(place))

    (choice,) = answer.choices
    assert (choice.token_ids, choice.text, choice.logprobs, choice.finish_reason) == ([5], "a", [-1], "length")
    assert (answer.request_id, answer.is_complete, answer.num_told_tokens) == ("cmpl-9", True, 1)
    assert len(answer.piece_times_s) == 1
