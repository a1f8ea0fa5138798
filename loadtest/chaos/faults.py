"""What can happen to a service or to Redis. A fault is over when what it broke runs again."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, cast

from loadtest.chaos.pool import Pool
from loadtest.chaos.scenario import FaultName, Scenario
from loadtest.chaos.service import Role, Service

_LEADER_SHARE: Final = 0.8
"""How often a fault of a scheduler hits the one that leads."""

_RESTART_S: Final = (0.1, 1.0)
"""How long what died stays dead: what a supervisor takes to notice."""

_LONGEST_DEAF_S: Final = 1.0
"""Replies that are missing for longer are a cut for whoever waits for them."""


class Fault(NamedTuple):
    """One that was drawn.

    Attributes:
        hold_s: How long what hangs or is cut off stays so.
        restart_s: How long what died stays dead.
        healthy_s: How long nothing else happens afterwards.
        is_alone: Whether the pool is to be whole again before the next one.
        is_for_leader: Whether it is meant for the scheduler that leads, if for a scheduler.
        place: Whom it hits among those of its role, as a share of them.
    """

    name: FaultName
    hold_s: float
    restart_s: float
    healthy_s: float
    is_alone: bool
    is_for_leader: bool
    place: float


class Happened(NamedTuple):
    """A fault that was inflicted, and from when to when in seconds of `time.perf_counter`."""

    name: FaultName
    victim: str
    start_s: float
    stop_s: float


def draw(scenario: Scenario, number: int) -> Fault:
    """A scenario's fault with this number."""
    chance = random.Random(f"{scenario.seed}/fault/{number}")
    names = list(scenario.faults)
    (name,) = chance.choices(names, weights=[scenario.faults[name] for name in names])
    return Fault(
        name=name,
        hold_s=chance.uniform(*scenario.hold_s),
        restart_s=chance.uniform(*_RESTART_S),
        healthy_s=chance.uniform(*scenario.healthy_s),
        is_alone=chance.random() >= scenario.overlap,
        is_for_leader=chance.random() < _LEADER_SHARE,
        place=chance.random(),
    )


async def inflict(fault: Fault, pool: Pool) -> str | None:
    """Let it happen, and return who was hit; None if nobody was there to be hit."""
    action, _, victim = fault.name.partition("-")
    if victim == "redis":
        async with pool.redis_turn:
            await _ON_REDIS[action](pool, fault)
        return victim
    leader = await pool.leader() if victim == "scheduler" else None
    services = pool.of(cast("Role", victim))
    if not services:
        return None
    hits_leader = leader in services and fault.is_for_leader
    service = leader if leader is not None and hits_leader else services[int(fault.place * len(services))]
    pool.claim(service)
    try:
        await _ON_SERVICES[action](pool, service, fault)
    finally:
        pool.release(service)
    return f"{service.name}, leading" if service is leader else service.name


async def _kill(_: Pool, service: Service, fault: Fault) -> None:
    await service.kill()
    await asyncio.sleep(fault.restart_s)
    await service.start()


async def _hang(_: Pool, service: Service, fault: Fault) -> None:
    service.hang()
    await asyncio.sleep(fault.hold_s)
    service.wake()


async def _drain(pool: Pool, service: Service, _fault: Fault) -> None:
    await pool.replace(service)


async def _cut(_: Pool, service: Service, _fault: Fault) -> None:
    service.link.cut()


async def _deafen(_: Pool, service: Service, fault: Fault) -> None:
    service.link.deafen()
    await asyncio.sleep(min(fault.hold_s, _LONGEST_DEAF_S))
    service.link.hear_again()


async def _isolate(_: Pool, service: Service, fault: Fault) -> None:
    service.link.stop()
    await asyncio.sleep(fault.hold_s)
    service.link.go_on()


async def _kill_redis(pool: Pool, fault: Fault) -> None:
    await asyncio.to_thread(pool.redis_server.kill)
    await asyncio.sleep(fault.restart_s)
    await asyncio.to_thread(pool.redis_server.restart)


async def _hang_redis(pool: Pool, fault: Fault) -> None:
    os.kill(pool.redis_server.pid, signal.SIGSTOP)
    await asyncio.sleep(fault.hold_s)
    os.kill(pool.redis_server.pid, signal.SIGCONT)


async def _restart_redis(pool: Pool, _fault: Fault) -> None:
    await asyncio.to_thread(pool.redis_server.restart)


_ON_SERVICES: Final[Mapping[str, Callable[[Pool, Service, Fault], Awaitable[None]]]] = {
    "kill": _kill,
    "hang": _hang,
    "drain": _drain,
    "cut": _cut,
    "deafen": _deafen,
    "isolate": _isolate,
}
_ON_REDIS: Final[Mapping[str, Callable[[Pool, Fault], Awaitable[None]]]] = {
    "kill": _kill_redis,
    "hang": _hang_redis,
    "restart": _restart_redis,
}
