"""Keeps services running: starts them, passes on what they log, starts again what dies, and ends them in order."""

import logging
import signal
import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import Protocol, TextIO

from pagestream.log_line import LogLine
from pagestream.restarts import RestartHistory
from pagestream.service_process import Event, Exited, Logged, ServiceProcess, StopRequested
from shared.errors import ConfigurationError

GRACE_S = 10.0
"""How long services may take to end by themselves."""


class Audience(Protocol):
    """Whom the supervisor tells what happens."""

    def stage(self, service: str, text: str) -> None:
        """A service said what it does."""

    def alert(self, service: str, text: str) -> None:
        """Something happened that a person should know."""


class Supervisor:
    """Owns the processes of some services. One thread uses it; everything that happens comes through `events`.

    Until `is_settled` is set, a service that gives up by itself ends the whole undertaking, since it would give up
    again; a service that was killed, or that dies later, starts again after a pause that grows.
    """

    def __init__(
        self, services: Iterable[ServiceProcess], *, events: "SimpleQueue[Event]", log: TextIO, audience: Audience
    ) -> None:
        self._services = {service.name: service for service in services}
        self._events = events
        self._log = log
        self._audience = audience
        self._histories = {name: RestartHistory() for name in self._services}
        self._last_lines: dict[str, LogLine] = {}
        self._starts_at: dict[str, float] = {}
        self._running: set[str] = set()
        self._num_stop_requests = 0
        self.is_settled = False

    @property
    def is_stop_requested(self) -> bool:
        """Whether somebody wants the services to end."""
        return self._num_stop_requests > 0

    def start(self) -> None:
        """Start every service."""
        for name in self._services:
            self._start(name)

    def run(self, *, timeout_s: float) -> None:
        """Handle what happens during this time, or until a stop is requested.

        Raises:
            ConfigurationError: a service gave up before `is_settled` was set.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_stop_requested and (now := time.monotonic()) < deadline:
            for name in [name for name, at in self._starts_at.items() if at <= now]:
                self._start(name)
            event = self._next_event(until=min([deadline, *self._starts_at.values()]))
            if isinstance(event, Exited):
                self._start_again_later(event)

    def stop(self, order: Iterable[Iterable[str]], *, grace_s: float = GRACE_S) -> None:
        """End the services, group after group; a second stop request ends them the hard way.

        Args:
            order: The groups, by the names of their services.
            grace_s: How long each group may take before it is killed.
        """
        self._starts_at.clear()
        for group in order:
            names = set(group)
            self._signal(names, signal.SIGTERM)
            self._await_end(names, deadline=time.monotonic() + grace_s)
        self._signal(self._running, signal.SIGKILL)
        self._await_end(set(self._services), deadline=time.monotonic() + GRACE_S)

    def _await_end(self, names: set[str], *, deadline: float) -> None:
        patience = max(self._num_stop_requests, 1)
        while self._running & names and time.monotonic() < deadline:
            self._next_event(until=deadline)
            if self._num_stop_requests > patience:
                patience = self._num_stop_requests
                self._signal(self._running, signal.SIGKILL)

    def _signal(self, names: Iterable[str], number: signal.Signals) -> None:
        for name in self._running.intersection(names):
            self._services[name].signal(number)

    def _start(self, name: str) -> None:
        self._starts_at.pop(name, None)
        self._last_lines.pop(name, None)
        self._services[name].start()
        self._running.add(name)

    def _next_event(self, *, until: float) -> Event | None:
        try:
            event = self._events.get(timeout=max(until - time.monotonic(), 0.0))
        except Empty:
            return None
        match event:
            case Logged():
                self._pass_on(event)
            case Exited():
                self._running.discard(event.service)
            case StopRequested():
                self._num_stop_requests += 1
        return event

    def _pass_on(self, event: Logged) -> None:
        self._write(event.service, event.text)
        line = LogLine.parse(event.text, previous=self._last_lines.get(event.service))
        self._last_lines[event.service] = line
        if line.is_last_word:
            return
        # At the end services miss one another: what they say of that is for the log.
        if line.level >= (logging.ERROR if self.is_stop_requested else logging.WARNING):
            self._audience.alert(event.service, line.message)
        elif line.level >= logging.INFO and not self.is_settled:
            self._audience.stage(event.service, line.message)

    def _start_again_later(self, event: Exited) -> None:
        last_line = self._last_lines.get(event.service)
        reason = last_line.message if last_line and event.status > 0 else _describe(event.status)
        if event.status > 0 and not self.is_settled:
            raise ConfigurationError(f"{event.service} did not start: {reason}")
        delay_s = self._histories[event.service].died(uptime_s=event.uptime_s)
        self._starts_at[event.service] = time.monotonic() + delay_s
        message = f"ended ({reason}); starts again in {delay_s:.1f} s"
        self._write(event.service, message)
        self._audience.alert(event.service, message)

    def _write(self, service: str, text: str) -> None:
        self._log.write(f"{service:<10} {text}\n")
        self._log.flush()


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
