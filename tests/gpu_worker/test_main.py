"""The worker's process and its stop signals: until it serves they end it at once, and later in time."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from shared.redis_server import RedisServer

AT_ONCE_S = 2.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a worker with these settings."""
    processes: list[subprocess.Popen[str]] = []

    def start(**settings: object) -> "subprocess.Popen[str]":
        script = (
            "import sys; from shared.observability import configure_logging; configure_logging('worker')\n"
            "from gpu_worker.main import run; from gpu_worker.settings import WorkerSettings\n"
            f"sys.exit(run(WorkerSettings(**{ {'pool': 'p', 'model': 'demo', 'num_threads': 1} | settings!r})))"
        )
        processes.append(subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        with process:
            process.kill()


def until_logged(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it ended without saying {words!r}")


def assert_ends(
    process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGTERM, *, within_s: float = AT_ONCE_S
) -> None:
    told_at = time.monotonic()
    process.send_signal(number)
    _, log = process.communicate()
    assert time.monotonic() - told_at < within_s
    assert process.returncode == 0, log
    assert "Traceback" not in log
    assert "Exception ignored" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_while_it_waits_for_a_redis_that_is_not_there(start: Start, number: signal.Signals) -> None:
    process = start(runner="fake", redis_url="redis://127.0.0.1:1/0")
    until_logged(process, "Waiting for Redis: ")
    assert_ends(process, number)


def test_it_ends_while_it_waits_for_a_redis_that_accepts_and_never_answers(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = start(runner="fake", redis_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        connection, _ = silent.accept()
        with connection:
            assert_ends(process)


@pytest.mark.model
def test_it_ends_while_it_loads_the_model(start: Start) -> None:
    process = start(redis_url="redis://127.0.0.1:1/0")
    until_logged(process, "loading demo as ")
    assert_ends(process)


def test_it_waits_for_redis_and_serves_when_it_is_there(start: Start) -> None:
    with RedisServer() as server:
        server.kill()
        process = start(runner="fake", redis_url=server.url)
        until_logged(process, "Waiting for Redis: ")
        server.restart()
        until_logged(process, "serving demo on fake: 64 sequences of up to 8192 tokens, ")
        until_logged(process, "is ready")
        assert_ends(process)


def test_it_ends_in_time_when_redis_hangs(start: Start) -> None:
    with RedisServer() as server:
        process = start(runner="fake", redis_url=server.url)
        until_logged(process, "is ready")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert_ends(process, within_s=8.0)
        finally:
            os.kill(server.pid, signal.SIGCONT)
