"""The scheduler as a process."""

import asyncio
import time

from scheduler_svc.service import SchedulerService
from scheduler_svc.settings import SchedulerSettings
from shared.observability import configure_logging
from shared.redis_bus import RedisSchedulerBus, await_redis
from shared.stop_signals import STOP_SIGNALS


def run(settings: SchedulerSettings) -> int:
    """Schedule until SIGTERM or SIGINT; returns the exit code."""
    configure_logging("scheduler", level=settings.log_level)
    asyncio.run(_run(settings))
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
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, service.stop)
    try:
        await service.run()
    finally:
        await bus.close()
