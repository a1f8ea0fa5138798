"""What tests of several packages share: a real Redis."""

from collections.abc import Iterator

import pytest
import redis

from shared.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run. A test that kills it starts its own instead."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """That server, empty."""
    with redis.Redis.from_url(redis_server.url, protocol=2) as client:
        client.flushall()
    return redis_server.url
