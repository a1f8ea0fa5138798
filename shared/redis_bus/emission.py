"""The arguments of `emit.lua`, which workers and schedulers both run, and what its refusals mean."""

from typing import Final

import redis

from shared.bus import RESULT_RETENTION
from shared.errors import LogLostError, SealedError
from shared.ids import BEFORE_FIRST_STEP, StepId, WorkerId
from shared.keys import PoolKeys
from shared.messages import StepResult, encode
from shared.redis_bus.connecting import Argument

LEAST_RETENTION: Final = 256
RETAINED_BYTES: Final = 256 << 20
"""Of one worker's log, as long as its results are about as large as the last one: log-probabilities make them so."""


def emit_arguments(
    keys: PoolKeys, writer: WorkerId, step: StepId, result: StepResult, *, previous: StepId = BEFORE_FIRST_STEP
) -> list[Argument]:
    """What the script appends and publishes, in the order it reads them."""
    data = encode(result)
    num_kept = min(RESULT_RETENTION, max(LEAST_RETENTION, RETAINED_BYTES // len(data)))
    arguments: list[Argument] = [writer, str(step), str(previous), num_kept, data]
    for batch in result.batches:
        arguments += [keys.tokens(batch.gateway_id), encode(batch)]
    return arguments


def refusal_of(error: redis.ResponseError, writer: WorkerId) -> Exception:
    """What the script's refusal means to the writer; any other error as it is."""
    kind, _, rest = str(error).partition(" ")
    if kind == "SEALED":
        return SealedError(str(error))
    if kind == "LOST":
        return LogLostError(f"the log of {writer} ends at {rest}: Redis has lost the rest", last=StepId.parse(rest))
    return error
