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


def test_what_the_machine_held_up_is_no_stall() -> None:
    standstills = Standstills()
    for tick in (Span(10.0, 10.05), Span(10.05, 10.25), Span(10.25, 13.3)):
        standstills.note(tick)

    assert standstills.total_s == pytest.approx(3.0)
    whole, partly = stalls([Span(9.0, 13.5), Span(10.3, 13.3), Span(2.0, 9.0)], standstills)
    assert whole == Stall(9.0, pytest.approx(1.5))
    assert partly == Stall(2.0, 7.0)


async def test_a_process_notices_that_it_did_not_run() -> None:
    standstills = Standstills()
    watching = asyncio.create_task(standstills.watch())
    await asyncio.sleep(0.2)
    before_s = time.perf_counter()
    time.sleep(0.8)  # noqa: ASYNC251 - nothing of this process runs
    after_s = time.perf_counter()
    await asyncio.sleep(0.1)
    watching.cancel()

    assert standstills.lengths_without([Span(before_s, after_s)])[0] < 0.4
