"""A gateway process whose Redis is gone, hangs, or was never there: it says so, and still ends when it is told to."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from shared.redis_server import RedisServer
from tests.gateway.conftest import eventually

pytestmark = pytest.mark.model

GRACE_S = 1.0
BOUND_S = GRACE_S + 3.0
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "stream": True}

SLOW_NAMES = """
import socket, time
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **kw: time.sleep(60) if host == "redis" else real(host, *rest, **kw)
"""
"""As where the name server is gone, too."""


@asynccontextmanager
async def gateway_process(redis_url: str, *, port: int = 0, prelude: str = "") -> AsyncIterator[Process]:
    settings = f"pool='p', model='demo', port={port}, redis_url={redis_url!r}, shutdown_timeout={GRACE_S}"
    script = (
        "import sys; from shared.observability import configure_logging; configure_logging('gateway')\n"
        "from gateway.main import run; from gateway.settings import GatewaySettings\n"
        f"{prelude}\nsys.exit(run(GatewaySettings({settings})))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", "-c", script, stderr=PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def ends_in_time(process: Process, *, bound_s: float = BOUND_S) -> str:
    """Tell it to end; its log."""
    told_at = time.monotonic()
    process.terminate()
    _, log = await process.communicate()
    assert time.monotonic() - told_at < bound_s
    assert process.returncode == 0, log.decode()
    assert b"Traceback" not in log, log.decode()
    assert b"never retrieved" not in log, log.decode()
    return log.decode()


async def until_logged(process: Process, words: str) -> None:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while line := await process.stderr.readline():
            if words in line.decode():
                return
    pytest.fail(f"it ended without saying {words!r}")


@pytest.fixture
def redis_of_its_own() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _kill(server: RedisServer) -> None:
    server.kill()


def _stop(server: RedisServer) -> None:
    os.kill(server.pid, signal.SIGSTOP)


@pytest.mark.parametrize("trouble", [_kill, _stop])
@pytest.mark.parametrize("is_noticed", [True, False])
async def test_it_ends_in_time_and_answers_everybody_whatever_redis_does(
    redis_of_its_own: RedisServer, port: int, trouble: Callable[[RedisServer], None], *, is_noticed: bool
) -> None:
    async with (
        gateway_process(redis_of_its_own.url, port=port) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http,
    ):
        await until_logged(process, "serving demo at ")
        async with http.stream("POST", "/v1/chat/completions", json=CHAT) as streamed:
            lines = streamed.aiter_lines()
            assert "role" in await anext(lines)
            trouble(redis_of_its_own)
            late = asyncio.create_task(http.post("/v1/chat/completions", json=CHAT))
            if is_noticed:
                await eventually(lambda: bus_is_missed(http), timeout_s=10)
            else:
                await asyncio.sleep(0.1)  # for the late request to be under way
            log = await ends_in_time(process)
            rest = [line async for line in lines if line]
        assert "shutting down" in rest[0]
        assert rest[-1] == "data: [DONE]"
        assert (await late).status_code == 503
    assert log.count("the bus does not answer") <= 1
    assert log.count("The token feed is lost") <= 1
    assert log.count("the logs of tokens cannot be read") <= 1
    assert log.splitlines()[-1].endswith("ended")


async def bus_is_missed(http: httpx.AsyncClient) -> bool:
    return "the message bus does not answer" in (await http.get("/health")).text


async def test_it_waits_for_redis_and_serves_when_it_is_there(redis_of_its_own: RedisServer, port: int) -> None:
    redis_of_its_own.kill()
    async with gateway_process(redis_of_its_own.url, port=port) as process:
        await until_logged(process, "Waiting for Redis: ")
        redis_of_its_own.restart()
        await until_logged(process, f"serving demo at http://127.0.0.1:{port}")
        await ends_in_time(process)


async def test_it_ends_while_it_waits_for_a_redis_that_accepts_and_never_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with gateway_process(f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as process:
            connection, _ = await asyncio.to_thread(silent.accept)
            with connection:
                await ends_in_time(process, bound_s=2.0)


async def test_it_ends_while_a_name_server_is_waited_for() -> None:
    async with gateway_process("redis://redis:6379/0", prelude=SLOW_NAMES) as process:
        await until_logged(process, "Waiting for Redis: Redis does not answer: no reply in time")
        await ends_in_time(process, bound_s=2.0)


async def test_the_feed_says_once_that_it_is_lost_and_once_that_it_is_back(
    redis_of_its_own: RedisServer, port: int
) -> None:
    async with (
        gateway_process(redis_of_its_own.url, port=port) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http,
    ):
        await until_logged(process, "serving demo at ")
        redis_of_its_own.kill()
        await eventually(lambda: bus_is_missed(http), timeout_s=10)
        await asyncio.sleep(1.0)  # time for several attempts
        redis_of_its_own.restart()
        await until_logged(process, "The token feed is lost")
        await until_logged(process, "The token feed is back")
        log = await ends_in_time(process)
    assert "The token feed" not in log
