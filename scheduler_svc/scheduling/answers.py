"""What a worker answered to a plan, checked against it. Pure."""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from scheduler_svc.scheduling.sequence import Sequence
from scheduler_svc.scheduling.worker import PlanRecord
from shared.errors import MessageError, PlanError
from shared.ids import WorkerId
from shared.messages import TokenBatch
from shared.packing import unpack_u16, unpack_u32
from shared.sampling import FinishCode


class Answer(NamedTuple):
    """New output tokens of one sequence.

    Attributes:
        start: Where they stand in the output.
        is_last: Whether they end it.
    """

    sequence: Sequence
    start: int
    tokens: "array[int]"
    is_last: bool


def answers(worker_id: WorkerId, record: PlanRecord, batch: TokenBatch) -> Iterator[Answer]:
    """One gateway's share of a step's result.

    Raises:
        PlanError: it does not answer the plan.
    """
    try:
        tokens, slots, indices = unpack_u32(batch.tokens), unpack_u16(batch.slots), unpack_u32(batch.indices)
    except MessageError as error:
        raise PlanError(f"worker {worker_id} answered step {batch.step} with nonsense: {error}") from error
    lengths = {len(slots), len(indices), len(batch.counts), len(batch.finishes)}
    if len(lengths) > 1 or sum(batch.counts) != len(tokens):
        raise PlanError(f"worker {worker_id} answered step {batch.step} with arrays of different lengths")
    read = 0
    for slot, index, count, finish in zip(slots, indices, batch.counts, batch.finishes, strict=True):
        if slot not in record.rows:
            raise PlanError(f"worker {worker_id} answered slot {slot}, which step {batch.step} did not name")
        new_tokens = tokens[read : read + count]
        yield Answer(record.rows[slot].sequence, index, new_tokens, is_last=finish != FinishCode.RUNNING)
        read += count
