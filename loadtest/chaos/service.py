"""One service as a real process, which can be killed, stopped and started again."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Final, Literal

from loadtest.chaos.network import Link
from shared.lifeline import SUPERVISOR_VARIABLE

Role = Literal["worker", "scheduler", "gateway"]

_LONGEST_END_S: Final = 400.0


class Service:
    """A service of one role, one process at a time, behind a network of its own.

    Attributes:
        name: Such as "worker-2".
        command: What is started, without the flags that say where Redis is and which port is to be used.
        link: Between it and Redis.
        port: Where a gateway listens, a new one for each process.
        num_starts: Processes so far.
    """

    def __init__(self, name: str, role: Role, command: tuple[str, ...], link: Link, log: Path) -> None:
        self.name = name
        self.role: Role = role
        self.link = link
        self.port = 0
        self.num_starts = 0
        self._command = command
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process; a stopped one counts."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start a process. The one before must have ended."""
        assert not self.is_running
        self.link.names.clear()
        where = ["--redis-url", self.link.url]
        if self.role == "gateway":
            self.port = _free_port()
            where += ["--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *where,
                env={**os.environ, "PYTHONWARNINGS": "", SUPERVISOR_VARIABLE: str(os.getpid())},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.num_starts += 1

    async def kill(self) -> None:
        """End it as `kill -9` does."""
        self._signal(signal.SIGKILL)
        await self._wait()

    async def terminate(self) -> int:
        """Ask it to end, and wait until it has; returns its exit status, or kills it if it takes too long."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_LONGEST_END_S):
                return await self._wait()
        except TimeoutError:
            await self.kill()
            raise

    def hang(self) -> None:
        """Stop it: it answers nobody, and its connections stand."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let it go on, as if nothing had happened."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self.is_running:
            self._process.send_signal(number)

    async def _wait(self) -> int:
        assert self._process is not None
        return await self._process.wait()


def python(*arguments: str) -> tuple[str, ...]:
    """A command of the Python that runs this."""
    return (sys.executable, "-m", *arguments)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
