"""One service as a child process: its start, its log, its end. What it tells, it tells through a queue."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from shared.lifeline import SUPERVISOR_VARIABLE


@dataclass(frozen=True, slots=True)
class Logged:
    """A service wrote a line."""

    service: str
    text: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A service's process ended; all it wrote has been told before.

    Attributes:
        status: The exit status; negative is the signal that ended it.
        uptime_s: How long it ran.
    """

    service: str
    status: int
    uptime_s: float


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants the stack to end."""


Event = Logged | Exited | StopRequested


class ServiceProcess:
    """Runs a service's command, one process at a time, in a session of its own.

    Being no member of the terminal's process group it does not see Ctrl-C: the supervisor decides the order of the end.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, environment: Mapping[str, str], events: "SimpleQueue[Event]"
    ) -> None:
        self.name = name
        self._command = command
        self._environment = environment
        self._events = events
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process. The one before it must have ended."""
        environment = {**os.environ, **self._environment, SUPERVISOR_VARIABLE: str(os.getpid())}
        self._process = subprocess.Popen(  # noqa: S603
            self._command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=self._follow, args=(self._process,), name=f"log of {self.name}", daemon=True).start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def _follow(self, process: "subprocess.Popen[str]") -> None:
        started_at = time.monotonic()
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._events.put(Logged(self.name, line.rstrip()))
        status = process.wait()
        self._events.put(Exited(self.name, status, time.monotonic() - started_at))
