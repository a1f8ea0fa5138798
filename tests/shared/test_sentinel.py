"""A primary, a replica and a sentinel: when the primary dies, every role goes on at the replica, by the same url."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from shared.errors import ConfigurationError
from shared.redis_bus import RedisWorkerBus
from shared.redis_bus.sentinel_url import SentinelUrl
from shared.redis_server import find_redis_server
from tests.shared.failover import every_role_goes_on, free_ports, until


@dataclass
class Watched:
    url: str
    primary: subprocess.Popen[bytes]
    primary_port: int
    replica_port: int


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    primary, replica, sentinel = free_ports(3)
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"port {sentinel}\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {primary} 1\n"
        "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 2000\n"
    )
    binary = str(find_redis_server())
    plain = ["--save", "", "--appendonly", "no", "--dir", str(tmp_path)]
    commands = [
        [binary, "--port", str(primary), *plain],
        [binary, "--port", str(replica), *plain, "--replicaof", "127.0.0.1", str(primary)],
        [binary, str(configuration), "--sentinel"],
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        with redis.Redis(port=sentinel, protocol=2) as asked:
            until(lambda: len(asked.sentinel_slaves("main")) == 1)
        with redis.Redis(port=replica, protocol=2) as asked:
            until(lambda: asked.info("replication")["master_link_status"] == "up")
        yield Watched(f"redis+sentinel://127.0.0.1:{sentinel}/main", processes[0], primary, replica)
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def test_every_role_goes_on_at_the_replica_when_the_primary_dies(watched: Watched) -> None:
    await every_role_goes_on(watched.url, watched.primary_port, watched.primary.kill)
    with redis.Redis(port=watched.replica_port, protocol=2) as client:
        assert client.info("replication")["role"] == "master"


def test_the_url_says_where_sentinels_are_and_how_to_log_in() -> None:
    url = "rediss+sentinel://me:se%40cret@a:1,b,[::1]:3/main/2?sentinel_password=other"
    found = SentinelUrl.parse(url)
    assert found is not None
    assert found.sentinels == [("a", 1), ("b", 26379), ("::1", 3)]
    assert (found.service, found.is_tls, found.sentinel_options) == ("main", True, {"password": "other"})
    assert found.options == {"username": "me", "password": "se@cret", "db": 2}
    assert SentinelUrl.parse("redis://a:1/0") is None


@pytest.mark.parametrize("url", ["redis+sentinel://a:1", "redis+sentinel:///main", "redis+sentinel://a:x/main"])
def test_a_url_that_leaves_something_out_is_a_wrong_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="--redis-url is wrong"):
        RedisWorkerBus.connect(url, "p")
