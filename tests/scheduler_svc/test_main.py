"""The scheduler as a process: it ends when it is told to, whatever Redis does."""

import os
import signal
import subprocess
import sys
import time

import pytest
import redis

from shared.keys import PoolKeys
from shared.redis_server import RedisServer


def start(url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pagestream", "scheduler", "--redis-url", url]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], *, timeout_s: float) -> str:
    """Stop it, and return what it logged."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    return log


def wait_for_leader(server: RedisServer) -> None:
    deadline = time.monotonic() + 20
    with redis.Redis.from_url(server.url, protocol=2) as client:
        while not client.exists(PoolKeys("default").status):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_it_gives_the_lease_up_when_it_is_stopped(redis_server: RedisServer, redis_url: str) -> None:
    process = start(redis_url)
    wait_for_leader(redis_server)
    end(process, timeout_s=5)
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        assert not client.exists(PoolKeys("default").lead)


def test_it_ends_while_it_waits_for_redis() -> None:
    process = start("redis://127.0.0.1:1/0")
    assert process.stderr
    assert "Waiting for Redis" in process.stderr.readline()
    end(process, timeout_s=3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["Redis is killed", "Redis hangs"])
def test_it_ends_within_its_bound_when_redis_is_gone(number: signal.Signals) -> None:
    with RedisServer() as server:
        process = start(server.url)
        wait_for_leader(server)
        os.kill(server.pid, number)
        try:
            end(process, timeout_s=5)
        finally:
            if number is signal.SIGSTOP:
                os.kill(server.pid, signal.SIGCONT)
