"""What may be left when everything has ended: in Redis, and in the cache of blocks."""

import asyncio
import time
from typing import Final

from loadtest.chaos.pool import POOL, Pool
from shared.archive import Kind
from shared.errors import BusUnavailableError
from shared.keys import GROUP, PoolKeys
from shared.messages import PoolStatus
from shared.redis_bus import RedisPoolObserver

_TIMEOUT_S: Final = 30.0
_POLL_INTERVAL_S: Final = 0.1
_LOOK_TIMEOUT_S: Final = 5.0
_LASTING: Final = ("req", "ctl", "lead", "epoch", "status", "writers", "wseq", "w:", "wc:", "g:", "plan:", "res:")
"""Keys of the pool itself. Whatever belongs to a request must be gone, or expire."""


async def left_behind(pool: Pool) -> list[str]:
    """What is still there some time after the last request; empty if it is nothing."""
    deadline_s = time.monotonic() + _TIMEOUT_S
    while left := await _look(pool):
        if time.monotonic() > deadline_s:
            break
        await asyncio.sleep(_POLL_INTERVAL_S)
    return left


async def _look(pool: Pool) -> list[str]:
    try:
        view = await RedisPoolObserver(pool.redis_server.url, POOL).look(timeout_s=_LOOK_TIMEOUT_S)
    except BusUnavailableError as error:
        return [str(error)]
    return [*_in_pool(view.status), *_in_redis(pool)]


def _in_pool(status: PoolStatus | None) -> list[str]:
    if status is None:
        return ["nobody leads the pool"]
    left = {
        "sequences running": status.num_running,
        "sequences waiting": status.num_waiting,
        "of the blocks held": status.kv_cache_usage,
    }
    return [f"{value:g} {what}" for what, value in left.items() if value]


def _in_redis(pool: Pool) -> list[str]:
    keys, client = PoolKeys(POOL), pool.redis
    left = []
    for stream in (keys.requests, keys.control):
        if client.exists(stream):
            pending = client.xpending(stream, GROUP)["pending"]
            if num_entries := client.xlen(stream):
                left.append(f"{num_entries} entries of {stream}, {pending} of them pending")
    lasting = (*_LASTING, *(f"{kind}:" for kind in Kind))
    for key in client.scan_iter():
        name = key.decode().removeprefix(f"{{{POOL}}}:")
        if not name.startswith(lasting) and client.ttl(key) == -1:  # it is -2 if the key has expired meanwhile
            left.append(f"the key {key.decode()}, which does not expire")
        elif name.startswith("out:"):
            left.append(f"the key {key.decode()}, of a request that has ended")
    return left
