"""A look at a pool on Redis from outside: takes no part in it, and leaves nothing there."""

import asyncio
from dataclasses import dataclass

from shared.errors import BusUnavailableError
from shared.ids import WorkerId
from shared.keys import PoolKeys
from shared.messages import PoolStatus, WorkerStatus, decode
from shared.redis_bus.connection import AsyncConnection


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool at one moment.

    Attributes:
        status: The leading scheduler's word, or None while nobody leads.
        workers: Those with a heartbeat, in the order of their names.
    """

    status: PoolStatus | None
    workers: tuple[WorkerStatus, ...]


class RedisPoolObserver:
    """Reads what schedulers and workers say about themselves."""

    def __init__(self, url: str, pool: str) -> None:
        self._keys = PoolKeys(pool)
        self._connection = AsyncConnection(url, "observer")

    async def look(self, *, timeout_s: float) -> PoolView:
        """Look once, and disconnect.

        Raises:
            ConfigurationError: the url is wrong, or the server will not do.
            BusUnavailableError: Redis does not answer in this time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._connection.greet()
                return await self._read()
        except TimeoutError as error:
            raise BusUnavailableError(f"Redis does not answer within {timeout_s:.0f} s") from error
        finally:
            await self._connection.close()

    async def _read(self) -> PoolView:
        writers = await self._connection.call("ZRANGE", self._keys.writers, 0, -1)
        keys = [self._keys.worker(WorkerId(writer.decode())) for writer in writers]
        status, *workers = await self._connection.call("MGET", self._keys.status, *keys)
        return PoolView(
            decode(status, PoolStatus) if status is not None else None,
            tuple(decode(worker, WorkerStatus) for worker in workers if worker is not None),
        )
