"""What may be left when everything has ended: in Redis, in the cache of blocks, and in the memory of processes."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from loadtest.chaos.pool import POOL, Pool
from shared.archive import Kind
from shared.errors import BusUnavailableError
from shared.ids import WorkerId
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


class Growth(NamedTuple):
    """Memory of one process, in bytes, at two moments."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """By how much it grew, relative to what it was."""
        return self.after / self.before - 1


def memory_of(pool: Pool) -> dict[str, int]:
    """Bytes that each process holds for itself, by its name; nothing of services where the system does not tell.

    Of Redis it is what it has allocated: how much of what was freed the system gets back is the affair of its
    allocator, which may be any. What it has still to write to its file does not count, nor do logs that are trimmed by
    length: they begin empty with each worker's life, and expire some time after it.
    """
    held = {name: held for name, pid in pool.pids().items() if (held := _private_bytes(pid))}
    info = pool.redis.info("memory")
    in_logs = sum(pool.redis.memory_usage(key, samples=0) or 0 for key in _trimmed_logs(pool))
    held_by_redis = info["used_memory"] - info["mem_aof_buffer"] - in_logs
    return held | {f"redis without trimmed logs ({pool.redis_server.pid})": held_by_redis}


def _trimmed_logs(pool: Pool) -> Iterator[bytes]:
    keys = PoolKeys(POOL)
    yield from (keys.usage_log.encode(), keys.dead_letters.encode())
    for pattern in (keys.results(WorkerId("*")), keys.plans(WorkerId("*"))):
        yield from pool.redis.scan_iter(pattern, count=1000)


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, Growth]:
    """Of the processes that were there both times."""
    return {name: Growth(before[name], after[name]) for name in before if name in after}


def _private_bytes(pid: int) -> int:
    """The anonymous part of the resident memory: pages of files come and go with the system's needs."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return 0
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["RssAnon"].split()[0]) * 1024
