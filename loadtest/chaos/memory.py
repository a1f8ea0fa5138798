"""What each process of a pool holds in memory, at two moments of a run, and by how much it grew."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from loadtest.chaos.pool import POOL, Pool
from shared.ids import WorkerId
from shared.keys import PoolKeys

_KEYS_AT_ONCE: Final = 500
_NEVER_EXPIRES: Final = -1


class Weight(NamedTuple):
    """Memory of one process, in bytes.

    Attributes:
        whole: All of it.
        lasting: Without what goes by itself: how much there is of that depends on the last minutes alone.
    """

    whole: int
    lasting: int


class Growth(NamedTuple):
    """Memory of one process, in bytes, at two moments; of what goes by itself there is as much at the second one."""

    before: int
    after: int

    @property
    def share(self) -> float:
        """By how much it grew, relative to what it was."""
        return self.after / self.before - 1


def memory_of(pool: Pool) -> dict[str, Weight]:
    """What each process holds for itself, by its name; nothing of services where the system does not tell.

    Of Redis it is what it has allocated: how much of what was freed the system gets back is the affair of its
    allocator, which may be any. What it has still to write to its file does not count. Logs that are trimmed by length
    begin empty with each worker's life and expire some time after it, and ended answers wait a while for whoever
    resumes them: both go by themselves.
    """
    held = {name: Weight(held, held) for name, pid in pool.pids().items() if (held := _private_bytes(pid))}
    info = pool.redis.info("memory")
    whole = info["used_memory"] - info["mem_aof_buffer"]
    return held | {f"redis ({pool.redis_server.pid})": Weight(whole, whole - _passing_bytes(pool))}


def growth(before: Mapping[str, Weight], after: Mapping[str, Weight]) -> dict[str, Growth]:
    """Of the processes that were there both times."""
    return {
        name: Growth(then.whole, then.whole + after[name].lasting - then.lasting)
        for name, then in before.items()
        if name in after
    }


def _passing_bytes(pool: Pool) -> int:
    """Of Redis's keys that expire, and of its logs that are trimmed."""
    keys, client = PoolKeys(POOL), pool.redis
    logs = {keys.usage_log.encode(), keys.dead_letters.encode()}
    for pattern in (keys.results(WorkerId("*")), keys.plans(WorkerId("*"))):
        logs.update(client.scan_iter(pattern, count=1000))
    total = 0
    for some in _parts(set(client.scan_iter(count=1000))):
        asked = client.pipeline(transaction=False)
        for key in some:
            asked.pttl(key)
            asked.memory_usage(key, samples=0)
        told = asked.execute()
        for key, expires_ms, num_bytes in zip(some, told[::2], told[1::2], strict=True):
            if key in logs or expires_ms != _NEVER_EXPIRES:
                total += num_bytes or 0  # it has just expired
    return total


def _parts(keys: set[bytes]) -> Iterator[list[bytes]]:
    rest = iter(keys)
    while part := list(islice(rest, _KEYS_AT_ONCE)):
        yield part


def _private_bytes(pid: int) -> int:
    """The anonymous part of the resident memory: pages of files come and go with the system's needs."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return 0
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["RssAnon"].split()[0]) * 1024
