"""The scheduler as a process."""

import asyncio
import logging
import time
from typing import Final

import uvloop

from scheduler_svc.service import SchedulerService
from scheduler_svc.settings import SchedulerSettings
from shared.observability import configure_logging
from shared.redis_bus import RedisSchedulerBus, await_redis
from shared.stop_signals import STOP_SIGNALS

log = logging.getLogger(__name__)

_LONGEST_END_S: Final = 3.0
"""A read in progress lasts a second; what takes longer than this waits for a Redis that is gone."""


def run(settings: SchedulerSettings) -> int:
    """Schedule until SIGTERM or SIGINT; returns the exit code."""
    configure_logging("scheduler", level=settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))
    return 0


async def _run(settings: SchedulerSettings) -> None:
    loop = asyncio.get_running_loop()
    connecting = asyncio.ensure_future(
        await_redis(lambda: RedisSchedulerBus.connect(settings.redis_url, settings.pool))
    )
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, connecting.cancel)
    try:
        bus = await connecting
    except asyncio.CancelledError:
        return
    service = SchedulerService(bus, settings, clock=time.monotonic)
    running = asyncio.create_task(service.run())

    def stop() -> None:
        service.stop()
        loop.call_later(_LONGEST_END_S, running.cancel)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await running
    except asyncio.CancelledError:
        log.warning("stopped while Redis was away; the lease runs out by itself")
    finally:
        await bus.close()
