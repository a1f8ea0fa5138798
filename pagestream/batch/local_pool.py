"""A whole pool in this process: the bus in memory, scheduler, one worker, and the gateway's application. No sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Final

from gateway.app import create_app
from gateway.http.loopback import Loopback
from gateway.settings import GatewaySettings
from gateway.storage.archives import Archives
from gateway.tokenizers.tokenizer import Tokenizer
from gpu_worker.runner import Runner
from gpu_worker.service import WorkerService
from scheduler_svc.service import SchedulerService
from scheduler_svc.settings import SchedulerSettings
from shared.bus import GatewayBus
from shared.memory_bus import MemoryBus
from shared.messages import PoolStatus

_POLL_S: Final = 0.01


@asynccontextmanager
async def local_pool(runner: Runner, tokenizer: Tokenizer, settings: GatewaySettings) -> AsyncIterator[Loopback]:
    """Run a pool until the block ends, and give what answers requests as a server does.

    What is under way at the end is dropped.

    Args:
        runner: Computes, in a thread of its own.
        tokenizer: Of the runner's model.
        settings: What requests may ask for; nothing is listened on.

    Raises:
        ExceptionGroup: the worker or the scheduler has ended by itself.
    """
    # In one process nobody can be gone while the others are there: by this bus's clock no sign of life grows old, even
    # if the process is stopped for an hour.
    bus = MemoryBus(settings.pool, clock=lambda: 0.0)
    patient = SchedulerSettings(redis_url="", pool=settings.pool, worker_timeout_s=inf)
    scheduler = SchedulerService(bus.scheduler("local"), patient, clock=time.monotonic)
    worker = WorkerService(bus.worker(), runner)
    gateway_bus = bus.gateway()
    app = create_app(settings, gateway_bus, tokenizer, Archives.in_memory(settings))
    async with asyncio.TaskGroup() as services:
        scheduling = services.create_task(scheduler.run())
        # A leader seals all names that it finds.
        await _until(gateway_bus, lambda status: status.epoch > 0)
        computing = services.create_task(_compute(worker))
        try:
            await _until(gateway_bus, lambda status: status.num_workers > 0)
            async with app.router.lifespan_context(app) as state:
                yield Loopback(app, lambda: state or {})
        finally:
            worker.stop()
            await computing
            scheduler.stop()
            scheduling.cancel()


async def _until(bus: GatewayBus, holds: Callable[[PoolStatus], bool]) -> None:
    while (status := await bus.pool_status()) is None or not holds(status):  # noqa: ASYNC110 - the bus has no event
        await asyncio.sleep(_POLL_S)


async def _compute(worker: WorkerService) -> None:
    if status := await asyncio.to_thread(worker.run):
        raise RuntimeError(f"the worker ended with status {status}; the log says why")
