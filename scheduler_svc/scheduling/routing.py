"""Which worker takes a waiting sequence: where the least work lies before its first token. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from shared.ids import WorkerId

DECODE_WEIGHT = 16
"""Prompt tokens that weigh as much as one running sequence, which adds one row to every step until it ends."""


class Candidate(NamedTuple):
    """A worker that has room for the sequence.

    Attributes:
        num_uncached_tokens: Tokens it would have to compute for this sequence.
        num_pending_tokens: Tokens of prompts it has already taken on.
        num_running: Sequences it runs.
    """

    worker_id: WorkerId
    num_uncached_tokens: int
    num_pending_tokens: int
    num_running: int

    @property
    def cost(self) -> int:
        """Tokens of work before this sequence's first token, and the rows it shares steps with."""
        return self.num_uncached_tokens + self.num_pending_tokens + DECODE_WEIGHT * self.num_running


def choose_worker(candidates: Iterable[Candidate]) -> WorkerId | None:
    """The cheapest worker, by name where costs are equal; None if there is no candidate."""
    best = min(candidates, key=lambda candidate: (candidate.cost, candidate.worker_id), default=None)
    return best.worker_id if best else None
