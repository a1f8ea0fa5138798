"""How long clients had to wait in the middle of their answers, without what their own machine held up."""

import asyncio
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from loadtest.chaos.answer import Answer

LEAST_STALL_S: Final = 1.0
"""Shorter pauses are no stalls: a person hardly notices one, and a busy machine makes them without any fault."""

_TICK_S: Final = 0.05
_LEAST_STANDSTILL_S: Final = 0.25


class Span(NamedTuple):
    """A piece of time, in seconds of `time.perf_counter`."""

    start_s: float
    stop_s: float


class Stall(NamedTuple):
    """A pause of one stream, by its start in seconds of `time.perf_counter`."""

    start_s: float
    length_s: float


class Standstills:
    """Notices when this process did not run: then neither did the clients, whatever the pool did meanwhile."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    async def watch(self) -> None:
        """Watch until cancelled."""
        before_s = time.perf_counter()
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = time.perf_counter()
            self.note(Span(before_s, now_s))
            before_s = now_s

    def note(self, tick: Span) -> None:
        """Take in the time between two ticks."""
        if tick.stop_s - tick.start_s - _TICK_S > _LEAST_STANDSTILL_S:
            self._spans.append(Span(tick.start_s + _TICK_S, tick.stop_s))

    @property
    def total_s(self) -> float:
        """All of it."""
        return sum(span.stop_s - span.start_s for span in self._spans)

    def lengths_without(self, spans: Sequence[Span]) -> list[float]:
        """How long each of those spans was for a process that runs."""
        return [span.stop_s - span.start_s - self._within(span) for span in spans]

    def _within(self, span: Span) -> float:
        return sum(max(0.0, min(still.stop_s, span.stop_s) - max(still.start_s, span.start_s)) for still in self._spans)


def pauses(answer: Answer) -> list[Span]:
    """Where a client waited for the next piece of its answer, or for its end, for so long that it may be a stall."""
    times_s = [*answer.piece_times_s, answer.ended_s]
    return [Span(*times) for times in pairwise(times_s) if times[1] - times[0] >= LEAST_STALL_S]


def stalls(spans: Sequence[Span], standstills: Standstills) -> list[Stall]:
    """Those of the pauses that are stalls."""
    lengths_s = zip(spans, standstills.lengths_without(spans), strict=True)
    return [Stall(span.start_s, length_s) for span, length_s in lengths_s if length_s >= LEAST_STALL_S]
