"""The arguments of `emit.lua`, which workers and schedulers both run."""

from shared.bus import RESULT_RETENTION
from shared.ids import StepId, WorkerId
from shared.keys import PoolKeys
from shared.messages import StepResult, encode
from shared.redis_bus.connection import Argument


def emit_arguments(keys: PoolKeys, writer: WorkerId, step: StepId, result: StepResult) -> list[Argument]:
    """What the script appends and publishes, in the order it reads them."""
    arguments: list[Argument] = [writer, str(step), RESULT_RETENTION, encode(result)]
    for batch in result.batches:
        arguments += [keys.tokens(batch.gateway_id), encode(batch)]
    return arguments
