"""A worker's own end of its result stream: emits in order, and emits again what Redis has lost of it.

A Redis that comes back without its last second, or a replica that takes over, has a log that ends too early. Later
results are refused there until the missing ones stand in it: so the log has no holes, and what was published is in it.
"""

from collections import deque
from typing import Final

from shared.bus import WorkerBus
from shared.errors import LogLostError, SealedError
from shared.ids import BEFORE_FIRST_STEP, StepId, WorkerId
from shared.messages import StepResult

KEPT_RESULTS: Final = 512
"""Results that can be emitted again: seconds of steps, where a failover loses one or two."""


class ResultLog:
    """Follows the log of one worker name. One thread calls it."""

    def __init__(self, bus: WorkerBus, worker: WorkerId) -> None:
        self._bus = bus
        self._worker = worker
        self._emitted: deque[tuple[StepId, StepResult]] = deque(maxlen=KEPT_RESULTS)
        self._before_those = BEFORE_FIRST_STEP

    def emit(self, step: StepId, result: StepResult) -> None:
        """Append a result. May be repeated after an error of the bus.

        Raises:
            SealedError: the stream has been sealed, or has lost more than can be emitted again.
            BusUnavailableError: Redis does not answer; the result may or may not be there.
        """
        previous = self._emitted[-1][0] if self._emitted else self._before_those
        while True:
            try:
                self._bus.emit(self._worker, step, result, previous=previous)
            except LogLostError as error:
                self._emit_again(error.last)
            else:
                break
        if len(self._emitted) == KEPT_RESULTS:
            self._before_those = self._emitted[0][0]
        self._emitted.append((step, result))

    def _emit_again(self, last: StepId) -> None:
        """Restore the log, which ends with `last`, as far as it goes before it loses something again."""
        if last < self._before_those:
            raise SealedError(f"the log of {self._worker} has lost more than the last {KEPT_RESULTS} results")
        for step, result in list(self._emitted):
            if step > last:
                try:
                    self._bus.emit(self._worker, step, result, previous=last)
                except LogLostError:
                    return
                last = step
