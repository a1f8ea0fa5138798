"""A gateway's side of the bus on Redis."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Self

from shared.admission import queue_full
from shared.bus import LIVENESS_TTL_S
from shared.errors import BusUnavailableError, MessageError
from shared.ids import GatewayId, RequestId, StepId, WorkerId
from shared.keys import PoolKeys
from shared.messages import Attach, Cancel, PoolStatus, StepResult, Submit, TokenBatch, decode, encode
from shared.redis_bus.connecting import server_process
from shared.redis_bus.connection import AsyncConnection
from shared.redis_bus.scripts import ADMIT, HELD
from shared.usage import HourlyUsage, UsageRecord, decode_usage, hourly

_log = logging.getLogger(__name__)

_PAGE = 256
_RECONNECT_S = 0.25


class RedisGatewayBus:
    """Implements `GatewayBus`. Made by `connect`."""

    def __init__(self, url: str, pool: str, gateway_id: GatewayId | None = None) -> None:
        self._url = url
        self._keys = PoolKeys(pool)
        self._gateway_id = gateway_id or GatewayId(f"gw-{uuid.uuid4().hex[:12]}")
        self._commands = AsyncConnection(url, self._gateway_id)
        self._logs = AsyncConnection(url, f"{self._gateway_id}-logs")

    @classmethod
    async def connect(cls, url: str, pool: str) -> Self:
        """Join a pool under a new gateway id.

        Raises:
            ConfigurationError: the url is wrong, or the server will not do.
            BusUnavailableError: Redis does not answer.
        """
        bus = cls(url, pool)
        await bus._commands.greet()
        return bus

    @property
    def gateway_id(self) -> GatewayId:
        """This gateway's name on the bus."""
        return self._gateway_id

    async def submit(self, message: Submit, *, max_requests: int) -> str:
        """Enqueue a request; returns its entry. Not repeated after an error, since it may have been taken in.

        Raises:
            QueueFullError: `max_requests` requests are already in the pool.
            BusUnavailableError: Redis does not answer.
        """
        arguments = (max_requests, encode(message))
        is_in, num_requests, entry = await self._commands.run(ADMIT, [self._keys.requests], *arguments)
        if not is_in:
            raise queue_full(num_requests, await self.pool_status())
        return str(entry.decode())

    async def resubmit(self, message: Submit) -> str:
        """Enqueue a request that was accepted before, however many there are; returns its new entry."""
        entry = await self._commands.call("XADD", self._keys.requests, "*", "d", encode(message))
        return str(entry.decode())

    async def missing(self, entries: Sequence[str]) -> set[str]:
        """Those entries that are no longer there: their requests have ended, or Redis has lost them."""
        held = await self._commands.run(HELD, [self._keys.requests], *entries) if entries else []
        return {entry for entry, is_held in zip(entries, held, strict=True) if not is_held}

    async def incarnation(self) -> str:
        """Names the server process: another one may have lost what was written last, or have been a replica."""
        return server_process(await self._commands.call("INFO", "server", is_repeatable=True))

    async def num_requests(self) -> int:
        """Requests in the pool, waiting or running."""
        return int(await self._commands.call("XLEN", self._keys.requests, is_repeatable=True))

    async def cancel(self, message: Cancel) -> None:
        """Tell the scheduler that a request is over for us."""
        await self._commands.call("XADD", self._keys.control, "*", "d", encode(message))

    async def attach(self, message: Attach) -> None:
        """Tell the scheduler that we follow a request. Told twice is as good as once."""
        await self._commands.call("XADD", self._keys.control, "*", "d", encode(message), is_repeatable=True)

    def follow(self, gateway_id: GatewayId) -> "RedisGatewayBus":
        """The same pool as another gateway sees it; connects on first use."""
        return RedisGatewayBus(self._url, self._keys.pool, gateway_id)

    async def feed(self) -> AsyncIterator[TokenBatch]:
        """The fast copy of our tokens. Never ends; subscribes again by itself; may lose messages silently."""
        is_lost = False
        while True:
            connection = AsyncConnection(self._url, f"{self._gateway_id}-feed")
            try:
                await connection.call("SUBSCRIBE", self._keys.tokens(self._gateway_id))
                if is_lost:
                    _log.info("The token feed is back")
                is_lost = False
                while True:
                    _, _, data = await connection.next_reply()
                    try:
                        yield decode(data, TokenBatch)
                    except MessageError as error:
                        _log.warning("A published batch cannot be read: %s", error)
            except BusUnavailableError as error:
                if is_lost:
                    await asyncio.sleep(_RECONNECT_S * random.random())  # noqa: S311 - lest gateways return as one
                else:
                    _log.warning("The token feed is lost, subscribing again until it is back: %s", error)
                is_lost = True
            finally:
                await connection.close()

    async def backfill(self, writer: WorkerId, after: StepId) -> tuple[StepId, list[TokenBatch]]:
        """Our batches in a writer's log above `after`, and the id up to which that log has now been read.

        Raises:
            BusUnavailableError: Redis does not answer.
        """
        stream, batches = self._keys.results(writer), list[TokenBatch]()
        while entries := await self._logs.call("XRANGE", stream, f"({after}", "+", "COUNT", _PAGE, is_repeatable=True):
            for entry_id, (_, data) in entries:
                after = StepId.parse(entry_id)
                if not after.is_seal:
                    batches += self._ours(writer, after, data)
        return after, batches

    def _ours(self, writer: WorkerId, step: StepId, data: bytes) -> list[TokenBatch]:
        """Our part of a result. Of one that cannot be read there is none: its writer is sealed, and others make up."""
        try:
            return [batch for batch in decode(data, StepResult).batches if batch.gateway_id == self._gateway_id]
        except MessageError as error:
            _log.warning("result %s of %s cannot be read: %s", step, writer, error)
            return []

    async def writers(self) -> list[WorkerId]:
        """Everyone whose log may hold something for us, the dead included."""
        members = await self._logs.call("ZRANGE", self._keys.writers, 0, -1, is_repeatable=True)
        return [WorkerId(member.decode()) for member in members]

    async def heartbeat(self) -> None:
        """Say that this gateway lives."""
        key = self._keys.gateway(self._gateway_id)
        await self._commands.call("SET", key, "1", "PX", int(LIVENESS_TTL_S * 1000), is_repeatable=True)

    async def pool_status(self) -> PoolStatus | None:
        """The leading scheduler's word, or None while nobody leads."""
        data = await self._commands.call("GET", self._keys.status, is_repeatable=True)
        return decode(data, PoolStatus) if data is not None else None

    async def usage(self, hours: range) -> list[HourlyUsage]:
        """What requests used that ended in these hours (unix time / 3600), in order; nothing of hours without any."""
        found: list[HourlyUsage] = []
        for hour in hours:
            fields = await self._logs.call("HGETALL", self._keys.usage(hour), is_repeatable=True)
            names, counts = fields[::2], fields[1::2]
            found += hourly(hour, {name.decode(): int(count) for name, count in zip(names, counts, strict=True)})
        return found

    async def usage_of(self, request_id: RequestId) -> UsageRecord | None:
        """What one request used, if it has ended not long ago."""
        last = "+"
        while page := await self._logs.call(
            "XREVRANGE", self._keys.usage_log, last, "-", "COUNT", _PAGE, is_repeatable=True
        ):
            for entry_id, (_, data) in page:
                last = f"({entry_id.decode()}"
                record = decode_usage(data)
                if record.request_id == request_id:
                    return record
        return None

    async def close(self) -> None:
        """Release the connections. What `feed` holds is released when its iteration is closed."""
        await self._commands.close()
        await self._logs.close()
