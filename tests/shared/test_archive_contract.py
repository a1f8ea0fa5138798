"""What every archive promises, run against the one on Redis and the one in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import redis

from shared import memory_archive
from shared.archive import LEASE_S, Archive, Claim, Kind
from shared.errors import ClaimLostError, NotFoundError, QueueFullError, StorageFullError
from shared.memory_archive import MemoryArchive
from shared.redis_archive import RedisArchive

TTL_S = 60.0


@pytest.fixture(params=["redis", "memory"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Archive]]:
    """Makes archives that see the same records, if there are several."""
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    async with AsyncExitStack() as stack:
        in_memory: list[Archive] = []

        def make_archive(*, max_bytes: int = 1 << 20, drops_oldest: bool = False) -> Archive:
            if url is None:
                in_memory[:] = in_memory or [MemoryArchive(max_bytes=max_bytes, drops_oldest=drops_oldest)]
                return in_memory[0]
            made = RedisArchive(url, "p", Kind.FILE, max_bytes=max_bytes, drops_oldest=drops_oldest)
            stack.push_async_callback(made.close)
            return made

        yield make_archive


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> float:
    """Leases of a tenth of a second."""
    monkeypatch.setattr(memory_archive, "LEASE_S", 0.1)
    monkeypatch.setattr("shared.redis_archive.archive._LEASE_MS", 100)
    return 0.1


async def test_a_record_is_read_by_everybody_until_it_is_deleted(make: Callable[..., Archive]) -> None:
    one, other = make(), make()
    await one.create("a", b"first", ttl_s=TTL_S)
    assert await other.read("a") == b"first"
    assert await other.read("b") is None
    assert await other.delete("a")
    assert await one.read("a") is None
    assert not await one.delete("a")


async def test_a_record_and_its_parts_expire(make: Callable[..., Archive]) -> None:
    archive = make()
    claim = await archive.create("a", b"first", ttl_s=0.15)
    await archive.update(claim, parts=[b"x"])
    assert await archive.parts("a", 0) == [b"x"]
    await asyncio.sleep(0.2)
    assert await archive.read("a") is None
    assert await archive.parts("a", 0) == []
    assert (await archive.page(after=None, limit=10, newest_first=False)).documents == []
    with pytest.raises(ClaimLostError):
        await archive.update(claim, document=b"too late")


async def test_an_update_may_prolong_a_record(make: Callable[..., Archive]) -> None:
    archive = make()
    claim = await archive.create("a", b"first", ttl_s=0.2)
    await archive.update(claim, parts=[b"x"], ttl_s=TTL_S)
    await asyncio.sleep(0.25)
    assert await archive.parts("a", 0) == [b"x"]


async def test_parts_are_numbered_and_a_repeated_update_adds_none(make: Callable[..., Archive]) -> None:
    archive = make()
    claim = await archive.create("a", b"", ttl_s=TTL_S)
    await archive.update(claim, parts=[b"0", b"1"], num_parts=0)
    await archive.update(claim, parts=[b"2"], num_parts=2)
    await archive.update(claim, parts=[b"2"], num_parts=2)
    await archive.update(claim, document=b"changed")
    await archive.update(claim, parts=[b"3"], num_parts=3)
    assert await archive.parts("a", 0) == [b"0", b"1", b"2", b"3"]
    assert await archive.parts("a", 1, limit=2) == [b"1", b"2"]
    assert await archive.parts("a", 4) == []
    assert await archive.read("a") == b"changed"


async def test_parts_that_are_dropped_make_room(make: Callable[..., Archive]) -> None:
    archive = make(max_bytes=100)
    claim = await archive.create("a", b"x" * 10, ttl_s=TTL_S)
    await archive.update(claim, parts=[b"x" * 80])
    await archive.update(claim, document=b"y" * 20, drops_parts=True)
    assert await archive.parts("a", 0) == []
    await archive.update(claim, parts=[b"z" * 80])
    assert await archive.parts("a", 0) == [b"z" * 80]
    assert await archive.read("a") == b"y" * 20


async def test_whoever_waits_for_a_part_gets_it_when_it_comes(make: Callable[..., Archive]) -> None:
    writer, reader = make(), make()
    claim = await writer.create("a", b"", ttl_s=TTL_S)
    waiting = [asyncio.create_task(reader.parts("a", 0, timeout_s=5)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in waiting)
    await writer.update(claim, parts=[b"0"])
    assert await asyncio.gather(*waiting) == [[b"0"]] * 3
    assert await reader.parts("a", 1, timeout_s=0.05) == []


async def test_pages_follow_the_order_of_creation(make: Callable[..., Archive]) -> None:
    archive = make()
    for name in "abcde":
        await archive.create(name, name.encode(), ttl_s=TTL_S, is_listed=name != "c")
    page = await archive.page(after=None, limit=2, newest_first=True)
    assert (page.documents, page.has_more) == ([b"e", b"d"], True)
    page = await archive.page(after="d", limit=2, newest_first=True)
    assert (page.documents, page.has_more) == ([b"b", b"a"], False)
    page = await archive.page(after="a", limit=5, newest_first=False)
    assert (page.documents, page.has_more) == ([b"b", b"d", b"e"], False)
    with pytest.raises(NotFoundError, match="there is no 'z'"):
        await archive.page(after="z", limit=2, newest_first=False)


async def test_a_record_may_be_listed_later(make: Callable[..., Archive]) -> None:
    archive = make()
    claim = await archive.create("a", b"a", ttl_s=TTL_S, is_listed=False)
    await archive.create("b", b"b", ttl_s=TTL_S)
    await archive.update(claim, is_listed=True)
    assert (await archive.page(after=None, limit=5, newest_first=False)).documents == [b"b", b"a"]


async def test_only_the_last_claim_may_write(make: Callable[..., Archive]) -> None:
    one, other = make(), make()
    old = await one.create("a", b"first", ttl_s=TTL_S)
    new = await other.seize("a")
    assert new is not None
    with pytest.raises(ClaimLostError, match="claim 1 of a is over"):
        await one.update(old, document=b"of a zombie", parts=[b"x"])
    with pytest.raises(ClaimLostError):
        await one.renew(old)
    await one.hand_back(old)
    await other.update(new, document=b"second")
    assert await one.read("a") == b"second"
    assert await one.parts("a", 0) == []
    await other.delete("a")
    with pytest.raises(ClaimLostError):
        await other.update(new, document=b"after its end")
    assert await other.seize("a") is None


@pytest.mark.usefixtures("short_leases")
async def test_a_job_that_nobody_renews_is_given_to_another_one(make: Callable[..., Archive]) -> None:
    one, other = make(), make()
    old = await one.create("a", b"", ttl_s=TTL_S, max_jobs=5)
    assert await other.take_job() is None
    await asyncio.sleep(0.07)
    await one.renew(old)
    await asyncio.sleep(0.07)
    assert await other.take_job() is None
    await asyncio.sleep(0.07)
    new = await other.take_job()
    assert new is not None
    assert new.record_id == "a"
    assert new.fence > old.fence
    assert await one.take_job() is None
    await other.hand_back(new)
    newest = await one.take_job()
    assert newest is not None
    await one.update(newest, document=b"done", is_done=True)
    await asyncio.sleep(0.15)
    assert await other.take_job() is None


@pytest.mark.usefixtures("short_leases")
async def test_deleted_and_expired_records_are_no_jobs(make: Callable[..., Archive]) -> None:
    archive = make()
    await archive.create("a", b"", ttl_s=TTL_S, max_jobs=5)
    await archive.create("b", b"", ttl_s=0.05, max_jobs=5)
    await archive.create("c", b"", ttl_s=TTL_S)
    await archive.delete("a")
    await asyncio.sleep(0.15)
    assert await archive.take_job() is None


async def test_jobs_are_bounded(make: Callable[..., Archive]) -> None:
    archive = make()
    claim = await archive.create("a", b"", ttl_s=TTL_S, max_jobs=1)
    with pytest.raises(QueueFullError, match="1 jobs"):
        await archive.create("b", b"", ttl_s=TTL_S, max_jobs=1)
    assert await archive.read("b") is None
    await archive.update(claim, is_done=True)
    await archive.create("b", b"", ttl_s=TTL_S, max_jobs=1)


async def test_bytes_are_bounded(make: Callable[..., Archive]) -> None:
    archive = make(max_bytes=100)
    claim = await archive.create("a", b"x" * 40, ttl_s=TTL_S)
    await archive.update(claim, parts=[b"x" * 40])
    with pytest.raises(StorageFullError, match="30 bytes do not fit: 80 of 100"):
        await archive.create("b", b"x" * 30, ttl_s=TTL_S)
    with pytest.raises(StorageFullError):
        await archive.update(claim, parts=[b"x" * 30], num_parts=1)
    assert await archive.parts("a", 0) == [b"x" * 40]
    await archive.update(claim, document=b"x" * 60)
    await archive.delete("a")
    await archive.create("b", b"x" * 100, ttl_s=0.05)
    await asyncio.sleep(0.1)
    await archive.create("c", b"x" * 100, ttl_s=TTL_S)


async def test_the_oldest_give_way_if_that_is_wanted(make: Callable[..., Archive]) -> None:
    archive = make(max_bytes=100, drops_oldest=True)
    await archive.create("job", b"x" * 30, ttl_s=TTL_S, max_jobs=5)
    for name in "abc":
        await archive.create(name, b"x" * 30, ttl_s=TTL_S)
    assert [await archive.read(name) is not None for name in ("job", "a", "b", "c")] == [True, False, True, True]
    with pytest.raises(StorageFullError):
        await archive.create("d", b"x" * 80, ttl_s=TTL_S)


async def test_every_key_on_redis_expires_and_deleting_leaves_nothing(redis_url: str) -> None:
    archive = RedisArchive(redis_url, "p", Kind.BATCH, max_bytes=1000)
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        claim = await archive.create("a", b"doc", ttl_s=5, max_jobs=5)
        await archive.update(claim, parts=[b"x"])
        await archive.update(claim, parts=[b"y"], num_parts=1, ttl_s=100)
        keys = list(client.scan_iter())
        assert len(keys) == 6
        assert all(90 < client.ttl(key) <= 100 for key in keys)
        await archive.delete("a")
        assert list(client.scan_iter()) == []
    await archive.close()


def test_a_lease_outlives_two_renewals() -> None:
    from shared.archive import RENEWAL_S

    assert LEASE_S >= 2.5 * RENEWAL_S
    assert Claim("a", 2) > Claim("a", 1)
