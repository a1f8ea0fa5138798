"""What a client waited for, without what its own machine held up."""

import asyncio
import time

import pytest

from loadtest.chaos.answer import Answer
from loadtest.chaos.requests import ChaosRequest
from loadtest.chaos.stalls import Span, Stall, Standstills, pauses, stalls


def test_pauses_lie_between_pieces_and_before_the_end() -> None:
    answer = Answer(ChaosRequest(0, "greedy", "/", {"max_tokens": 1}), 0.0)
    answer.piece_times_s, answer.ended_s = [5.0, 5.5, 8.0], 9.5

    assert pauses(answer) == [Span(5.5, 8.0), Span(8.0, 9.5)]


async def test_what_the_machine_held_up_is_no_stall() -> None:
    standstills = Standstills()
    watching = asyncio.create_task(standstills.watch())
    await asyncio.sleep(0.1)
    before_s = time.perf_counter()
    time.sleep(0.8)  # noqa: ASYNC251 - nothing of this process runs
    await asyncio.sleep(0.1)
    after_s = time.perf_counter()
    watching.cancel()

    assert standstills.total_s == pytest.approx(0.8, abs=0.3)
    spans = [Span(before_s - 0.5, after_s), Span(before_s - 5.0, before_s), Span(before_s - 5.0, after_s)]
    assert stalls(spans, standstills) == [
        Stall(before_s - 5.0, 5.0),
        Stall(before_s - 5.0, pytest.approx(5.2, abs=0.3)),
    ]
