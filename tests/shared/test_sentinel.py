"""A primary, a replica and a sentinel: when the primary dies, every role goes on at the replica, by the same url."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import redis

from shared.errors import BusUnavailableError, ConfigurationError
from shared.ids import BEFORE_FIRST_STEP, Handle, RequestId, StepId
from shared.messages import StepResult, Submit
from shared.packing import pack_u32
from shared.redis_bus import RedisGatewayBus, RedisSchedulerBus, RedisWorkerBus
from shared.redis_bus.sentinel_url import SentinelUrl
from shared.redis_server import find_redis_server
from shared.sampling import SamplingParams

T = TypeVar("T")


@dataclass
class Watched:
    url: str
    primary: subprocess.Popen[bytes]
    primary_port: int
    replica_port: int


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)


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


async def soon(call: Callable[[], Awaitable[T]]) -> T:
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except BusUnavailableError:
                await asyncio.sleep(0.1)


async def test_every_role_goes_on_at_the_replica_when_the_primary_dies(watched: Watched) -> None:
    gateway = await RedisGatewayBus.connect(watched.url, "p")
    scheduler = await RedisSchedulerBus.connect(watched.url, "p")
    worker = RedisWorkerBus.connect(watched.url, "p")
    submit = Submit(
        request_id=RequestId("r"), gateway_id=gateway.gateway_id, handle=Handle(0), prompt=pack_u32([1]),
        sampling=SamplingParams(), arrived_ms=0,
    )  # fmt: skip
    epoch = await scheduler.acquire_lease()
    assert epoch is not None
    entry = await gateway.submit(submit, max_requests=10)
    first = await gateway.incarnation()
    name = worker.register()
    worker.emit(name, StepId(epoch, 1), StepResult(num_tokens=1))
    with redis.Redis(port=watched.primary_port, protocol=2) as client:
        client.wait(1, 5000)

    watched.primary.kill()

    assert await soon(lambda: gateway.missing([entry])) == set()
    assert await gateway.incarnation() != first
    await soon(lambda: asyncio.to_thread(worker.emit, name, StepId(epoch, 2), StepResult(), previous=StepId(epoch, 1)))
    assert await soon(scheduler.acquire_lease) is not None
    logged = await soon(lambda: scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=1))
    assert [entry.step.step for entry in logged] == [1, 2]
    (delivery,) = await soon(lambda: scheduler.receive(timeout_s=1))
    assert delivery.message == submit
    with redis.Redis(port=watched.replica_port, protocol=2) as client:
        assert client.info("replication")["role"] == "master"
    worker.close()
    await scheduler.close()
    await gateway.close()


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
