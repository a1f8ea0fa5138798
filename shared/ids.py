"""Names of things that cross a process border. Each is its own type, so that one cannot stand in for another."""

from typing import NamedTuple, NewType, Self

RequestId = NewType("RequestId", str)
"""One accepted request; made by the gateway, unique for ever."""

GatewayId = NewType("GatewayId", str)
"""One gateway process; new at every process start."""

WorkerId = NewType("WorkerId", str)
"""One writer of a result stream: a worker process, or a scheduler's epoch. New at every start, never reused."""

Handle = NewType("Handle", int)
"""One choice of one request at its gateway (u32). The n choices of a request have consecutive handles."""

Slot = NewType("Slot", int)
"""One row of a worker's batch state (u16), lent to one running sequence."""

BlockId = NewType("BlockId", int)
"""One block of a worker's KV cache (u32)."""

TokenId = NewType("TokenId", int)

Epoch = NewType("Epoch", int)
"""One scheduler's term of leadership. Grows, even when Redis loses its data (it is at least the unix time)."""

SEAL_STEP = 2**64 - 1
"""The largest step. An entry with this id ends a stream: Redis refuses every later one of the same epoch."""


class StepId(NamedTuple):
    """The id of a plan and of the result that answers it: the explicit stream id `<epoch>-<step>`."""

    epoch: int
    step: int

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read `epoch-step` as Redis writes it.

        Raises:
            ValueError: the text is no stream id.
        """
        epoch, _, step = (text.decode() if isinstance(text, bytes) else text).partition("-")
        return cls(int(epoch), int(step))

    @property
    def is_seal(self) -> bool:
        """Whether this id can only be that of a seal."""
        return self.step == SEAL_STEP

    def next(self) -> "StepId":
        """The id that follows in the same epoch."""
        return StepId(self.epoch, self.step + 1)

    def __str__(self) -> str:
        return f"{self.epoch}-{self.step}"


BEFORE_FIRST_STEP = StepId(0, 0)
"""Stands before every entry of every stream."""
