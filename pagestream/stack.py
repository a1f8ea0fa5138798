"""The whole product on one machine: Redis, scheduler, workers and gateway, as processes under one supervisor."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import FrameType
from typing import TextIO

from rich.console import Console

from pagestream.gateway_address import GatewayAddress
from pagestream.redis_keeper import RedisKeeper
from pagestream.service_process import Event, ServiceProcess, StopRequested
from pagestream.startup_display import StartupDisplay
from pagestream.supervisor import GRACE_S, Supervisor
from shared.demo_model import cache_directory
from shared.errors import ConfigurationError

GATEWAY = "gateway"
SCHEDULER = "scheduler"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSettings:
    """What the stack itself needs to know.

    Attributes:
        model_name: The name that clients ask for.
        needs_api_key: Whether they must send a key.
        host: The interface the gateway listens on.
        port: Its port; 0 takes a free one.
        num_workers: Worker processes.
        num_threads: Threads that each of them computes with; None shares the machine's processors among them.
        is_https: Whether the gateway speaks TLS.
        shutdown_timeout_s: How long running streams may go on once the stack is told to end.
        redis_url: A Redis that runs already; None starts one for the stack alone.
        environment: The settings of all services, as environment variables.
    """

    model_name: str
    needs_api_key: bool
    host: str
    port: int
    num_workers: int
    num_threads: int | None = None
    is_https: bool = False
    shutdown_timeout_s: float = 0.0
    redis_url: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class LocalStack:
    """One stack, from its start to its end. `run` may be called once.

    The order of the end: the gateway, so that nothing new comes in; scheduler and workers; Redis.
    """

    def __init__(self, settings: StackSettings, *, console: Console) -> None:
        self._settings = settings
        self._console = console
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._display: StartupDisplay | None = None

    def run(self) -> int:
        """Serve until somebody presses Ctrl-C or sends SIGTERM. Returns the exit status.

        Raises:
            ConfigurationError: the port is taken, or a service gave up while the stack was starting.
        """
        settings = self._settings
        address = GatewayAddress.find(settings.host, settings.port, is_https=settings.is_https)
        with ExitStack() as resources:
            resources.enter_context(self._stop_on_signals())
            log = resources.enter_context(_open_log(address.port))
            bus = resources.enter_context(RedisKeeper(settings.redis_url, audience=self))
            services = self._services(bus.url, address.port)
            supervisor = Supervisor(services, events=self._events, log=log, audience=self)
            resources.callback(
                supervisor.stop, self._order_of_the_end(services), grace_s=settings.shutdown_timeout_s + GRACE_S
            )
            self._start(supervisor, address, services)
            if not supervisor.is_stop_requested:
                self._announce(address, log.name)
            while not supervisor.is_stop_requested:
                supervisor.run(timeout_s=1.0)
                bus.check()
            self._console.print("Stopping.")
        return 0

    def stage(self, service: str, text: str) -> None:
        """Show what a service does while the stack loads."""
        if self._display is not None:
            self._display.show(service, text)

    def alert(self, service: str, text: str) -> None:
        """Show what a person should know."""
        self._console.print(f"{service}: {text}", markup=False, soft_wrap=True)

    def _start(self, supervisor: Supervisor, address: GatewayAddress, services: list[ServiceProcess]) -> None:
        with StartupDisplay(self._console, [service.name for service in services]) as self._display:
            supervisor.start()
            while not supervisor.is_stop_requested and not address.is_healthy():
                supervisor.run(timeout_s=0.1)
        supervisor.is_settled = True

    def _services(self, redis_url: str, port: int) -> list[ServiceProcess]:
        settings = self._settings
        num_threads = settings.num_threads or threads_per_worker(len(os.sched_getaffinity(0)), settings.num_workers)
        environment = {
            **settings.environment,
            "PAGESTREAM_REDIS_URL": redis_url,
            "PAGESTREAM_PORT": str(port),
            "PAGESTREAM_NUM_THREADS": str(num_threads),
        }
        commands = {SCHEDULER: "scheduler", GATEWAY: "gateway"}
        commands |= {f"worker-{number}": "worker" for number in range(1, settings.num_workers + 1)}
        return [
            ServiceProcess(
                name, (sys.executable, "-m", "pagestream", command), environment=environment, events=self._events
            )
            for name, command in commands.items()
        ]

    def _order_of_the_end(self, services: list[ServiceProcess]) -> list[list[str]]:
        return [[GATEWAY], [service.name for service in services if service.name != GATEWAY]]

    def _announce(self, address: GatewayAddress, log_path: str) -> None:
        model = self._settings.model_name
        key = '-H "Authorization: Bearer $API_KEY" ' if self._settings.needs_api_key else ""
        body = {"model": model, "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 64}
        self._console.print(
            f"\n{model} is served at {address.base_url}  (log: {log_path})\n", markup=False, soft_wrap=True
        )
        self._console.print(
            f"curl {address.base_url}/chat/completions {key}-H 'Content-Type: application/json'"
            f" -d {shlex.quote(json.dumps(body))}",
            markup=False,
            soft_wrap=True,
        )
        self._console.print("\nCtrl-C stops everything.")

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        def request_stop(_number: int, _frame: FrameType | None) -> None:
            self._events.put(StopRequested())

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        previous = {number: signal.signal(number, request_stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def threads_per_worker(num_processors: int, num_workers: int) -> int:
    """How many threads each worker computes with, so that together they do not outnumber the processors."""
    return max(1, num_processors // num_workers)


def _open_log(port: int) -> TextIO:
    directory = cache_directory() / "logs"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / f"serve-{port}.log").open("w")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write a log in {directory}: {error.strerror}; set PAGESTREAM_CACHE to a directory you may write"
        ) from error
