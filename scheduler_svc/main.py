"""The scheduler as a process."""

import asyncio
import logging
import signal
import time

from scheduler_svc.service import SchedulerService
from scheduler_svc.settings import SchedulerSettings
from shared.errors import BusUnavailableError
from shared.observability import configure_logging
from shared.redis_bus import RedisSchedulerBus

log = logging.getLogger(__name__)

_RETRY_S = 0.5


def run(settings: SchedulerSettings) -> int:
    """Schedule until SIGTERM or SIGINT; returns the exit code."""
    configure_logging("scheduler", level=settings.log_level)
    asyncio.run(_run(settings))
    return 0


async def _run(settings: SchedulerSettings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    bus = await _connect(settings, stopping)
    if bus is None:
        return
    service = SchedulerService(bus, settings, clock=time.monotonic)
    running = asyncio.create_task(service.run())
    await asyncio.wait([running, asyncio.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    service.stop()
    await running
    await bus.close()


async def _connect(settings: SchedulerSettings, stopping: asyncio.Event) -> RedisSchedulerBus | None:
    """Wait for Redis: services start in any order."""
    while not stopping.is_set():
        try:
            return await RedisSchedulerBus.connect(settings.redis_url, settings.pool)
        except BusUnavailableError as error:
            log.warning("waiting for Redis: %s", error)
            await asyncio.sleep(_RETRY_S)
    return None
