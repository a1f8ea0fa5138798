"""Watches the simulated Redis: what is committed is committed once, in order; what is published is committed."""

from loadtest.simulation.kernel import Violation
from loadtest.simulation.redis import SimulatedRedis
from shared.ids import GatewayId
from shared.messages import StepResult, TokenBatch
from shared.packing import unpack_u32
from shared.sampling import FinishCode


class Audit:
    """How much of each choice's output has been committed, and how it ended.

    A fault may come while plans are in flight, so that a few more tokens are committed behind it: nobody is told them.
    """

    def __init__(self) -> None:
        self._num_committed: dict[tuple[GatewayId, int], int] = {}
        self._ended: set[tuple[GatewayId, int]] = set()
        self._failed: set[tuple[GatewayId, int]] = set()

    def committed(self, result: StepResult) -> None:
        """A result has been appended to a log."""
        for batch in result.batches:
            items = zip(unpack_u32(batch.handles), unpack_u32(batch.indices), batch.counts, batch.finishes, strict=True)
            for handle, index, count, finish in items:
                key = (batch.gateway_id, handle)
                known = self._num_committed.get(key, 0)
                if index != known or key in self._ended:
                    raise Violation(f"{batch.worker_id} commits token {index} of {key}, {known} are committed")
                self._num_committed[key] = known + count
                if finish != FinishCode.RUNNING:
                    self._ended.add(key)
            for fault in batch.faults:
                key = (batch.gateway_id, fault.handle)
                if key in self._failed:
                    raise Violation(f"{batch.worker_id} lets {key} fail again")
                self._failed.add(key)

    def published(self, redis: SimulatedRedis, batch: TokenBatch) -> None:
        """A batch is on its way to its gateway."""
        there = redis.results[batch.worker_id].entries.get(batch.step)
        if there is None or batch not in there.batches:
            raise Violation(f"{batch.worker_id} publishes step {batch.step}, which is not in its log")
