"""The bus inside one process: the same rules as on Redis, no server. Ships with the product, for `LLM` and for tests.

Workers may sit in threads, gateways and schedulers in one or several event loops. The bus can be made to lose published
batches, so that a gateway's repair of the fast path can be shown without a network.
"""

import time
import uuid
from collections.abc import Callable

from shared.ids import GatewayId
from shared.memory_bus.dead_letters import MemoryDeadLetterBox
from shared.memory_bus.gateway import MemoryGatewayBus
from shared.memory_bus.scheduler import MemorySchedulerBus
from shared.memory_bus.state import PoolState
from shared.memory_bus.worker import MemoryWorkerBus
from shared.messages import TokenBatch

__all__ = ["MemoryBus", "MemoryDeadLetterBox", "MemoryGatewayBus", "MemorySchedulerBus", "MemoryWorkerBus"]


class MemoryBus:
    """One pool's bus. Hands out any number of each role.

    Args:
        drop: Which published batches get lost on the way; the log keeps them.
        clock: Seconds that liveness is measured with.
    """

    def __init__(
        self,
        pool: str = "default",
        *,
        drop: Callable[[TokenBatch], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool = pool
        self._state = PoolState(drop, clock)

    def gateway(self, gateway_id: GatewayId | None = None) -> "MemoryGatewayBus":
        """A gateway's side, under this name or a new one."""
        return MemoryGatewayBus(self._state, gateway_id or GatewayId(f"gw-{uuid.uuid4().hex}"))

    def scheduler(self, name: str) -> "MemorySchedulerBus":
        """A scheduler's side. The name stands for one process: equal names share the lease."""
        return MemorySchedulerBus(self._state, name)

    def dead_letters(self) -> "MemoryDeadLetterBox":
        """The dead letters."""
        return MemoryDeadLetterBox(self._state)

    def worker(self) -> "MemoryWorkerBus":
        """A worker's side."""
        return MemoryWorkerBus(self._state)
