"""Workers that served an earlier leader and will be back. Pure: looks and the time come in.

A new leader closes every worker out. Those that live come back at once, or after the step that they are computing,
under new names and with the caches that they had. A sequence whose keys and values are in one of them is computed again
if another one takes it; so, for a moment, nobody does.
"""

from collections.abc import Iterable
from typing import Final

from shared.ids import WorkerId

REUNION_S: Final = 2.0
"""What a new leader waits at most: longer than most steps, shorter than what it takes to compute many prompts again."""


class Reunion:
    """Who was closed out, lives, and is not back yet.

    Args:
        writers: All who were closed out.
    """

    def __init__(self, writers: Iterable[WorkerId]) -> None:
        self._writers = set(writers)
        self._missing: set[WorkerId] | None = None if self._writers else set()
        self._gone: set[WorkerId] = set()
        self._until_s: float | None = None

    @property
    def missing(self) -> set[WorkerId]:
        """Those who are waited for, as far as is known."""
        return self._missing or set()

    def look(self, living: Iterable[WorkerId]) -> None:
        """Take in who has a heartbeat. The first look counts: a name that was closed out gets no more of them."""
        if self._missing is None:
            self._missing = self._writers.intersection(living) - self._gone

    def strike(self, worker: WorkerId) -> None:
        """Do not wait for somebody: who is back, or has died."""
        self._gone.add(worker)
        self.missing.discard(worker)

    def call_off(self) -> None:
        """Wait for nobody."""
        self._missing = set()

    def is_over(self, *, now_s: float) -> bool:
        """Whether all are back, or it is too late."""
        if self._until_s is None:
            self._until_s = now_s + REUNION_S
        return self._missing == set() or now_s >= self._until_s
