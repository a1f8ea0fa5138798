"""The arguments of `emit.lua`, which workers and schedulers both run."""

from typing import Final

from shared.bus import RESULT_RETENTION
from shared.ids import StepId, WorkerId
from shared.keys import PoolKeys
from shared.messages import StepResult, encode
from shared.redis_bus.connection import Argument

LEAST_RETENTION: Final = 256
RETAINED_BYTES: Final = 256 << 20
"""Of one worker's log, as long as its results are about as large as the last one: log-probabilities make them so."""


def emit_arguments(keys: PoolKeys, writer: WorkerId, step: StepId, result: StepResult) -> list[Argument]:
    """What the script appends and publishes, in the order it reads them."""
    data = encode(result)
    num_kept = min(RESULT_RETENTION, max(LEAST_RETENTION, RETAINED_BYTES // len(data)))
    arguments: list[Argument] = [writer, str(step), num_kept, data]
    for batch in result.batches:
        arguments += [keys.tokens(batch.gateway_id), encode(batch)]
    return arguments
