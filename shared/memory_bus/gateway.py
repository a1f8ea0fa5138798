"""A gateway's side of the in-memory bus."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from shared.admission import queue_full
from shared.ids import GatewayId, RequestId, StepId, WorkerId
from shared.memory_bus.state import PoolState
from shared.messages import Attach, Cancel, PoolStatus, Submit, TokenBatch
from shared.usage import HourlyUsage, UsageRecord, hourly


class MemoryGatewayBus:
    """Implements `GatewayBus`.

    Args:
        state: Of the pool.
        gateway_id: Whose side this is.
        is_own: Whether it is that gateway's own, whose life ends with it.
    """

    def __init__(self, state: PoolState, gateway_id: GatewayId, *, is_own: bool = True) -> None:
        self._state = state
        self._gateway_id = gateway_id
        self._is_own = is_own

    @property
    def gateway_id(self) -> GatewayId:
        """This gateway's name on the bus."""
        return self._gateway_id

    async def submit(self, message: Submit, *, max_requests: int) -> str:
        """Enqueue a request; returns its entry.

        Raises:
            QueueFullError: `max_requests` requests are already in the pool.
        """
        status = await self.pool_status()
        with self._state.changed:
            num_requests = len(self._state.requests)
            if num_requests >= max_requests:
                raise queue_full(num_requests, status)
            entry = self._state.requests.add(message)
            self._state.notify()
            return entry

    async def resubmit(self, message: Submit) -> str:
        """Enqueue a request that was accepted before, however many there are; returns its new entry."""
        with self._state.changed:
            entry = self._state.requests.add(message)
            self._state.notify()
            return entry

    async def missing(self, entries: Sequence[str]) -> set[str]:
        """Those entries that are no longer there: their requests have ended."""
        with self._state.changed:
            return {entry for entry in entries if entry not in self._state.requests}

    async def incarnation(self) -> str:
        """Names the data, which lives as long as this process."""
        return "memory"

    async def num_requests(self) -> int:
        """Requests in the pool, waiting or running."""
        with self._state.changed:
            return len(self._state.requests)

    async def cancel(self, message: Cancel) -> None:
        """Tell the scheduler that a request is over for us."""
        with self._state.changed:
            self._state.control.add(message)
            self._state.notify()

    async def attach(self, message: Attach) -> None:
        """Tell the scheduler that we follow a request."""
        with self._state.changed:
            self._state.control.add(message)
            self._state.notify()

    def follow(self, gateway_id: GatewayId) -> "MemoryGatewayBus":
        """The same pool as another gateway sees it."""
        return MemoryGatewayBus(self._state, gateway_id, is_own=False)

    async def feed(self) -> AsyncIterator[TokenBatch]:
        """The fast copy of our tokens, from the first step of the iteration on."""
        queue: asyncio.Queue[TokenBatch] = asyncio.Queue()
        subscription = (asyncio.get_running_loop(), queue)
        with self._state.changed:
            self._state.feeds.setdefault(self._gateway_id, []).append(subscription)
        try:
            while True:
                yield await queue.get()
        finally:
            with self._state.changed:
                self._state.feeds[self._gateway_id].remove(subscription)

    async def backfill(self, writer: WorkerId, after: StepId) -> tuple[StepId, list[TokenBatch]]:
        """Our batches in a writer's log above `after`, and the id up to which that log has now been read."""
        with self._state.changed:
            stream = self._state.results.get(writer)
            entries = stream.above(after) if stream else []
        batches = [
            batch
            for _, result in entries
            if result is not None
            for batch in result.batches
            if batch.gateway_id == self._gateway_id
        ]
        return entries[-1][0] if entries else after, batches

    async def writers(self) -> list[WorkerId]:
        """Everyone whose log may hold something for us, the dead included."""
        with self._state.changed:
            return list(self._state.results)

    async def heartbeat(self) -> None:
        """Say that this gateway lives."""
        with self._state.changed:
            self._state.gateway_seen[self._gateway_id] = self._state.clock()

    async def pool_status(self) -> PoolStatus | None:
        """The leading scheduler's word, or None while nobody leads."""
        with self._state.changed:
            if self._state.status is None or not self._state.is_live(self._state.status[0]):
                return None
            return self._state.status[1]

    async def usage(self, hours: range) -> list[HourlyUsage]:
        """What requests used that ended in these hours (unix time / 3600), in order; nothing of hours without any."""
        with self._state.changed:
            return [line for hour in hours for line in hourly(hour, self._state.usage.get(hour, {}))]

    async def usage_of(self, request_id: RequestId) -> UsageRecord | None:
        """What one request used, if it has ended not long ago."""
        with self._state.changed:
            newest_first = reversed(self._state.usage_records)
            return next((record for record in newest_first if record.request_id == request_id), None)

    async def close(self) -> None:
        """Be gone at once, as after a missed heartbeat."""
        with self._state.changed:
            if self._is_own:
                self._state.gateway_seen.pop(self._gateway_id, None)
