import asyncio
import contextlib

import pytest
import redis

from shared.redis_bus.connection import AsyncConnection


@pytest.fixture
async def connection(redis_url: str):
    made = AsyncConnection(redis_url, "test")
    await made.call("PING")
    yield made
    await made.close()


async def test_each_of_many_tasks_gets_its_own_reply(connection: AsyncConnection) -> None:
    words = [f"word {number}".encode() for number in range(200)]
    assert await asyncio.gather(*(connection.call("ECHO", word) for word in words)) == words
    assert connection.num_connects == 1


async def test_a_reply_that_nobody_waits_for_any_more_is_not_taken_for_the_next_one(
    connection: AsyncConnection,
) -> None:
    given_up = asyncio.create_task(connection.call("ECHO", "first"))
    await asyncio.sleep(0)
    given_up.cancel()
    assert await connection.call("ECHO", "second") == b"second"
    assert given_up.cancelled()
    assert connection.num_connects == 1


async def test_nobody_waits_behind_a_read_that_was_given_up(connection: AsyncConnection) -> None:
    reading = asyncio.create_task(connection.call("XREAD", "BLOCK", 60_000, "STREAMS", "none", "$", wait_s=60))
    await asyncio.sleep(0.05)
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    async with asyncio.timeout(10):
        assert await connection.call("ECHO", "next") == b"next"


async def test_messages_that_nobody_takes_wait_in_redis_and_none_is_lost(
    connection: AsyncConnection, redis_url: str
) -> None:
    await connection.call("SUBSCRIBE", "channel")
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        for number in range(4000):
            client.publish("channel", f"{number:2000}")
    await asyncio.sleep(0.2)
    assert connection._socket is not None
    assert len(connection._socket._unasked) < 1000
    numbers = [int((await connection.next_reply())[2]) for _ in range(4000)]
    assert numbers == list(range(4000))
