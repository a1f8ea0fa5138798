"""The whole stack as a newcomer starts it, with a fake model: its processes are real, and so is their end."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pagestream.stack import threads_per_worker

pytestmark = pytest.mark.model

DEADLINE_S = 30.0


class Served:
    """A `pagestream serve` that runs, and what it printed so far."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self._output = directory / "output"
        command = [sys.executable, "-m", "pagestream", "serve", "demo", "--port", "0", "--runner", "fake", *flags]
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, process_group=0, env=_environment(directory)
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def wait_for(self, pattern: str) -> str:
        self.wait_until(lambda: re.search(pattern, self.output) is not None)
        found = re.search(pattern, self.output)
        assert found is not None
        return found[0]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self.output
            assert self.process.poll() is None, self.output
            time.sleep(0.02)

    def family(self, command: str = "") -> list[psutil.Process]:
        """The processes that it started, or those of them that run one command."""
        everybody = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in everybody if not command or _command_line(child)[-1:] == [command]]


def _command_line(process: psutil.Process) -> list[str]:
    """Empty if the process is just ending."""
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


def _environment(directory: Path) -> dict[str, str]:
    """No variable of whoever runs the tests; the model from the usual cache, the log beside the output."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PAGESTREAM_")}
    return {**inherited, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(directory)}


def _assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not alive


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    stacks: list[Served] = []

    def serve(*flags: str) -> Served:
        stacks.append(Served(tmp_path_factory.mktemp("stack"), *flags))
        return stacks[-1]

    yield serve
    for stack in stacks:
        stack.process.kill()
        stack.process.wait()


@pytest.fixture(scope="module")
def served(serve: Callable[..., Served]) -> Served:
    """One stack for the tests that leave it serving, and for the one that ends it."""
    stack = serve("--workers", "2", "--api-key", "sesame")
    stack.wait_for(r"Ctrl-C stops everything\.")
    return stack


def _curl(served: Served) -> dict[str, object]:
    """What the printed line brings: a completion, or an error."""
    line = served.wait_for(r"curl .*")
    answer = subprocess.run(
        ["/bin/sh", "-c", f"{line} --silent --show-error"],
        env={**os.environ, "API_KEY": "sesame"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return dict(json.loads(answer.stdout))


def _is_answered(served: Served) -> bool:
    return _curl(served).get("object") == "chat.completion"


def test_the_printed_curl_line_works(served: Served) -> None:
    assert _is_answered(served), _curl(served)


def test_keys_are_not_in_what_it_prints_or_in_its_childrens_command_lines(served: Served) -> None:
    assert "sesame" not in served.output
    assert not [child for child in served.family() if "sesame" in shlex.join(_command_line(child))]


@pytest.mark.parametrize("service", ["worker", "scheduler", "gateway"])
def test_a_killed_service_is_replaced_and_the_stack_serves_on(served: Served, service: str) -> None:
    before = {child.pid for child in served.family(service)}
    os.kill(min(before), signal.SIGKILL)
    served.wait_until(lambda: len({child.pid for child in served.family(service)} - before) == 1)

    assert re.search(rf"{service}\S*: ended \(killed by SIGKILL\); starts again in 0\.1 s", served.output)
    served.wait_until(lambda: _is_healthy(served))
    assert _is_answered(served), _curl(served)


def test_a_killed_redis_is_started_again(served: Served) -> None:
    server = next(child for child in served.family() if child.name() == "redis-server")
    server.kill()
    served.wait_for("redis: ended; starts again with its data")

    served.wait_until(lambda: _is_answered(served))


def _is_healthy(served: Served) -> bool:
    address = re.sub(r"/v1$", "/health", served.wait_for(r"http://\S+/v1"))
    return subprocess.run(["curl", "-sf", address], capture_output=True, check=False).returncode == 0


def test_ctrl_c_ends_everything_and_leaves_nothing(served: Served) -> None:
    family = served.family()
    os.killpg(served.process.pid, signal.SIGINT)

    assert served.process.wait(DEADLINE_S) == 0
    assert served.output.endswith("Stopping.\n")
    _assert_gone(family)
    assert not list(served._output.parent.glob("pagestream-*"))


def test_a_killed_supervisor_takes_everything_with_it(serve: Callable[..., Served]) -> None:
    stack = serve()
    stack.wait_until(lambda: len(stack.family("worker")) == 1)
    family = stack.family()
    stack.process.kill()
    stack.process.wait()

    _assert_gone(family)


def test_a_service_that_gives_up_ends_the_stack_with_its_reason(serve: Callable[..., Served]) -> None:
    stack = serve("--kv-cache-memory-bytes", "1K")

    assert stack.process.wait(DEADLINE_S) == 1
    last_line = stack.output.splitlines()[-1]
    assert last_line.startswith("pagestream: error: worker-1 did not start: ")
    assert "--kv-cache-memory-bytes 1024 holds 0 blocks" in last_line


def test_a_port_that_is_in_use_is_said_before_anything_starts(serve: Callable[..., Served]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack = serve("--port", str(port))
        assert stack.process.wait(DEADLINE_S) == 1

    assert stack.output.startswith(f"pagestream: error: cannot listen on port {port} of 127.0.0.1: ")
    assert stack.output.count("\n") == 1


@pytest.mark.parametrize(("processors", "workers", "threads"), [(2, 1, 2), (2, 2, 1), (2, 3, 1), (16, 3, 5)])
def test_workers_share_the_processors(processors: int, workers: int, threads: int) -> None:
    assert threads_per_worker(processors, workers) == threads
