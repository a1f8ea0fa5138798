"""The pool as this gateway sees it, looked at twice a second; and this gateway's own sign of life."""

import asyncio
import logging
from typing import Final, NamedTuple

from shared.bus import HEARTBEAT_INTERVAL_S, GatewayBus
from shared.errors import BusError
from shared.messages import PoolStatus

_logger = logging.getLogger(__name__)

MAX_STALL_S: Final = 30.0
"""A pool with plans in flight and no result for that long is not healthy."""

_ANSWER_TIMEOUT_S: Final = 2.0


class Health(NamedTuple):
    """Whether requests are being answered.

    Attributes:
        fault: Why not, or None if they are.
    """

    fault: str | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether there is no fault."""
        return self.fault is None


class PoolMonitor:
    """Keeps the latest `PoolStatus`.

    Attributes:
        status: None while nobody leads or the bus does not answer.
    """

    def __init__(self, bus: GatewayBus) -> None:
        self._bus = bus
        self._bus_fault: str | None = None
        self.status: PoolStatus | None = None

    async def refresh(self) -> None:
        """Say that this gateway lives, and ask how the pool is."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await self._bus.heartbeat()
                self.status = await self._bus.pool_status()
        except (BusError, TimeoutError) as error:
            if self._bus_fault is None:
                _logger.warning("the bus does not answer: %s", error)
            self.status, self._bus_fault = None, str(error) or "no answer in time"
        else:
            self._bus_fault = None

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            await self.refresh()

    def is_idle(self) -> bool:
        """Whether nobody waits for a place in the pool, as far as is known."""
        return self.status is not None and self.status.num_workers > 0 and self.status.num_waiting == 0

    def health(self) -> Health:
        """Whether a scheduler leads, a worker lives and the pool makes progress."""
        status = self.status
        if self._bus_fault is not None:
            return Health("the message bus does not answer")
        if status is None:
            return Health("no scheduler leads the pool")
        if status.num_workers == 0:
            return Health("no live worker")
        if status.stalled_s >= MAX_STALL_S:
            return Health(f"no result for {status.stalled_s:.0f} s while work is under way")
        return Health()
