"""Sequences that hold nothing and wait for a worker."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from scheduler_svc.scheduling.sequence import Phase, Sequence


def _order(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.order


class WaitingQueue:
    """First come, first served within a priority; a preempted sequence finds its old place.

    Invariant, checked by `check`: exactly the sequences in phase WAITING are here, in order, each once.
    """

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        """In order; the queue must not change meanwhile."""
        return iter(self._sequences)

    def push(self, sequence: Sequence) -> None:
        """Enter at the sequence's place."""
        assert sequence.phase is Phase.WAITING
        insort(self._sequences, sequence, key=_order)

    def remove(self, sequence: Sequence) -> None:
        """Leave the queue.

        Raises:
            ValueError: it is not here.
        """
        index = bisect_left(self._sequences, sequence.order, key=_order)
        if index == len(self._sequences) or self._sequences[index] is not sequence:
            raise ValueError(f"choice {sequence.choice} of {sequence.request_id} does not wait")
        del self._sequences[index]

    def check(self) -> None:
        """Assert the invariant."""
        orders = [sequence.order for sequence in self._sequences]
        assert orders == sorted(set(orders))
        assert all(sequence.phase is Phase.WAITING for sequence in self._sequences)
