"""A whole pool of real processes: Redis, schedulers, workers and gateways, each reachable for a fault."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import redis

from loadtest.chaos.network import Link
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.service import Role, Service, python
from loadtest.http_connection import HttpClient
from shared.errors import BusUnavailableError, ServiceUnavailableError
from shared.keys import PoolKeys
from shared.redis_bus import RedisPoolObserver
from shared.redis_server import RedisServer

POOL: Final = "default"
_MODEL_FLAGS: Final = (
    *("--max-model-len", "1024", "--max-num-batched-tokens", "128"),
    *("--kv-cache-memory-bytes", "512M", "--num-threads", "1"),
)
"""Short steps, so that a fault of a second is longer than one."""

_GATEWAY_FLAGS: Final = ("--shutdown-timeout", "300")
"""So that a gateway that leaves ends its streams, whatever else fails meanwhile."""

_START_TIMEOUT_S: Final = 120.0
_POLL_INTERVAL_S: Final = 0.05
_ANSWER_TIMEOUT_S: Final = 5.0
_LEAVE_BALANCER_S: Final = 0.2
_OK: Final = 200


class Pool:
    """Starts everything when it is entered, and ends it when it is left.

    Attributes:
        services: Of all roles.
        redis_server: Redis itself.
        redis: A client of it, past every network that can be broken.
        redis_turn: Whoever breaks Redis has it.
    """

    def __init__(self, scenario: Scenario, log_directory: Path) -> None:
        self.services: list[Service] = []
        self.redis_turn = asyncio.Lock()
        self._scenario = scenario
        self._log_directory = log_directory
        self._unoffered: set[Service] = set()
        self._busy: set[Service] = set()

    async def __aenter__(self) -> Self:
        self.redis_server = await asyncio.to_thread(RedisServer)
        self.redis = redis.Redis.from_url(self.redis_server.url, protocol=2, socket_timeout=_ANSWER_TIMEOUT_S)
        try:
            await self._start_all()
        except BaseException:
            await self._end_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end_all()

    def of(self, role: Role) -> list[Service]:
        """The services of a role that run and are free for a fault."""
        return [s for s in self.services if s.role == role and s.is_running and s not in self._busy]

    def gateway_urls(self) -> list[str]:
        """Where clients may go, as a load balancer knows: gateways that are ready and are not about to leave."""
        return [
            f"http://127.0.0.1:{service.port}"
            for service in self.services
            if service.role == "gateway" and service.is_running and service not in self._unoffered
        ]

    async def leader(self) -> Service | None:
        """The scheduler that holds the lease; None if that cannot be found out."""
        try:
            name = await asyncio.to_thread(self.redis.get, PoolKeys(POOL).lead)
        except redis.RedisError:
            return None
        leaders = [s for s in self.of("scheduler") if isinstance(name, bytes) and name.decode() in s.link.names]
        return leaders[0] if leaders else None

    def claim(self, service: Service) -> None:
        """Keep other faults away from a service, until `release`."""
        self._busy.add(service)

    def release(self, service: Service) -> None:
        """Undo `claim`."""
        self._busy.discard(service)

    async def replace(self, service: Service) -> None:
        """What a rolling restart does with a service under load.

        A gateway's successor is there before it leaves, and no new client is sent to it; the others just end.

        Raises:
            ServiceUnavailableError: a successor does not start.
        """
        if service.role != "gateway":
            await service.terminate()
            await service.start()
            return
        successor = await self._add("gateway", service.name, is_offered=False)
        await self._await(lambda: _is_healthy(f"http://127.0.0.1:{successor.port}"))
        self._unoffered.remove(successor)
        self._unoffered.add(service)
        await asyncio.sleep(_LEAVE_BALANCER_S)
        await service.terminate()
        self._unoffered.remove(service)
        self.services.remove(service)
        await service.link.close()

    async def is_whole(self) -> bool:
        """Whether a scheduler leads, all workers work and every gateway is well."""
        try:
            view = await RedisPoolObserver(self.redis_server.url, POOL).look(timeout_s=_ANSWER_TIMEOUT_S)
        except BusUnavailableError:
            return False
        count = self._scenario.workers
        has_workers = view.status is not None and view.status.num_workers == count == len(view.workers)
        return has_workers and all([await _is_healthy(url) for url in self.gateway_urls()])

    def pids(self) -> dict[str, int]:
        """Of all services, by their names; one that was started again has another name than the one before."""
        return {f"{s.name} ({s.num_starts})": s.pid for s in self.services if s.is_running}

    async def _start_all(self) -> None:
        scenario = self._scenario
        roles: Sequence[tuple[Role, int]] = (
            ("scheduler", scenario.schedulers),
            ("worker", scenario.workers),
            ("gateway", scenario.gateways),
        )
        for role, count in roles:
            for number in range(1, count + 1):
                await self._add(role, f"{role}-{number}")
        await self._await(self.is_whole)

    async def _add(self, role: Role, name: str, *, is_offered: bool = True) -> Service:
        link = await Link(self.redis_server.url.removeprefix("unix://")).open()
        service = Service(name, role, self._command(role), link, self._log_directory / f"{name}.log")
        await service.start()
        self.services.append(service)
        if not is_offered:
            self._unoffered.add(service)
        return service

    def _command(self, role: Role) -> tuple[str, ...]:
        if role == "gateway":
            return python("pagestream", "gateway", "demo", *_GATEWAY_FLAGS)
        if role == "scheduler":
            return python("pagestream", "scheduler")
        if self._scenario.runner == "fake":
            return python("loadtest.chaos.paced_worker", "--step-ms", str(self._scenario.step_ms))
        return python("pagestream", "worker", "demo", *_MODEL_FLAGS)

    async def _await(self, condition: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not await condition():  # noqa: ASYNC110 - it waits for real processes
                    await asyncio.sleep(_POLL_INTERVAL_S)
        except TimeoutError as error:
            raise ServiceUnavailableError(
                f"services are not ready after {_START_TIMEOUT_S:.0f} s; their logs are in {self._log_directory}"
            ) from error

    async def _end_all(self) -> None:
        for role in ("gateway", "worker", "scheduler"):
            ending = [service for service in self.services if service.role == role and service.is_running]
            await asyncio.gather(*(_end(service) for service in ending))
        for service in self.services:
            await service.link.close()
        self.redis.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.redis_server.pid, signal.SIGCONT)
        await asyncio.to_thread(self.redis_server.stop)


async def _end(service: Service) -> None:
    service.wake()
    await service.terminate()


async def _is_healthy(url: str) -> bool:
    client = HttpClient(url, insecure=False)
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            return (await client.request("GET", "/health", headers={})).status == _OK
    except (OSError, TimeoutError):
        return False
    finally:
        client.close()
