"""Servers of one's own on this machine, each for as long as a measurement takes."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

from shared.demo_model import cache_directory
from shared.errors import ConfigurationError

_START_TIMEOUT_S: Final = 120.0
_POLL_INTERVAL_S: Final = 0.05
_STOP_TIMEOUT_S: Final = 30.0
_SHOWN_LINES: Final = 30


class ServerStartError(ConfigurationError):
    """A server did not come up.

    Attributes:
        log_end: The last lines that it wrote.
    """

    def __init__(self, message: str, *, log_end: str) -> None:
        super().__init__(message)
        self.log_end = log_end


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCommand:
    """How to start a server.

    Attributes:
        name: For people and for the log's name.
        command: Takes `--port` behind it, and answers `/health` with 200 once it serves.
        environment: All of it; None for our own.
        start_timeout_s: How long it may take to serve.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    start_timeout_s: float = _START_TIMEOUT_S


def pagestream_command(model: str, *flags: str) -> ServerCommand:
    """The whole stack, by the Python that runs this."""
    return ServerCommand(name="pagestream", command=(sys.executable, "-m", "pagestream", "serve", model, *flags))


@contextmanager
def serving(model: str, *flags: str) -> Iterator[str]:
    """Start the stack on a free port and give its address once it is healthy."""
    with running(pagestream_command(model, *flags)) as url:
        yield url


@contextmanager
def running(server: ServerCommand) -> Iterator[str]:
    """Start a server on a free port, give its address once it is healthy, and end it with all that it started.

    Raises:
        ServerStartError: it ended, or did not get healthy in time.
    """
    port = _free_port()
    path = _log_path(server.name)
    with path.open("wb") as log:
        try:
            process = subprocess.Popen(  # noqa: S603 - what the person named
                (*server.command, "--port", str(port)),
                env=server.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigurationError(f"{server.name} cannot be started: {error}") from error
    try:
        _await_health(server, process, port, path)
        yield f"http://127.0.0.1:{port}"
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _log_path(name: str) -> Path:
    directory = cache_directory() / "logs"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write a log in {directory}: {error.strerror}; set PAGESTREAM_CACHE to a directory you may write"
        ) from error
    return directory / f"bench-{name}.log"


def _await_health(server: ServerCommand, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    started_s = time.monotonic()
    while not _is_healthy(port):
        waited_s = time.monotonic() - started_s
        if process.poll() is not None:
            fault = f"ended with status {process.returncode} after {waited_s:.0f} s"
        elif waited_s > server.start_timeout_s:
            fault = f"was not healthy after {waited_s:.0f} s"
        else:
            time.sleep(_POLL_INTERVAL_S)
            continue
        end = "\n".join(log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])
        raise ServerStartError(f"{server.name} did not come up: it {fault}; its log is {log}", log_end=end)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; then end what is left of its family."""
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
