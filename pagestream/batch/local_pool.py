"""A whole pool in this process: the bus in memory, scheduler, one worker, and the gateway's application. No sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.tokenizer import Tokenizer
from gpu_worker.runner import Runner
from gpu_worker.service import WorkerService
from pagestream.batch.lines import Answer
from scheduler_svc.service import SchedulerService
from scheduler_svc.settings import SchedulerSettings
from shared.bus import GatewayBus
from shared.memory_bus import MemoryBus
from shared.messages import PoolStatus

_POLL_S: Final = 0.01
_URL: Final = "http://pagestream"
_JSON: Final = {"Content-Type": "application/json"}


class LocalPool:
    """Answers requests as a server does. `running_pool` makes one."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def post(self, path: str, body: Any) -> Answer:  # noqa: ANN401 - JSON
        """The answer to one request, errors included."""
        answering = asyncio.ensure_future(self._http.post(path, content=msgspec.json.encode(body), headers=_JSON))
        try:
            await asyncio.wait({answering})
        finally:
            # The gateway answers a cancelled request with an error: whoever cancels us is not to get that.
            answering.cancel()
            await asyncio.wait({answering})
        response = answering.result()
        request_id = response.headers["x-request-id"]
        return Answer(response.status_code, request_id, msgspec.Raw(response.content))


@asynccontextmanager
async def running_pool(runner: Runner, tokenizer: Tokenizer, settings: GatewaySettings) -> AsyncIterator[LocalPool]:
    """Run a pool until the block ends. What is under way then is dropped.

    Args:
        runner: Computes, in a thread of its own.
        tokenizer: Of the runner's model.
        settings: What requests may ask for; nothing is listened on.

    Raises:
        ExceptionGroup: the worker or the scheduler has ended by itself.
    """
    bus = MemoryBus(settings.pool)
    scheduler = SchedulerService(
        bus.scheduler("local"), SchedulerSettings(redis_url="", pool=settings.pool), clock=time.monotonic
    )
    worker = WorkerService(bus.worker(), runner)
    gateway_bus = bus.gateway()
    app = create_app(settings, gateway_bus, tokenizer)
    async with asyncio.TaskGroup() as services:
        scheduling = services.create_task(scheduler.run())
        # A leader seals all names that it finds.
        await _until(gateway_bus, lambda status: status.epoch > 0)
        computing = services.create_task(_compute(worker))
        try:
            await _until(gateway_bus, lambda status: status.num_workers > 0)
            async with app.router.lifespan_context(app) as state:
                transport = httpx2.ASGITransport(_with_state(app, dict(state or {})), raise_app_exceptions=False)
                async with httpx2.AsyncClient(transport=transport, base_url=_URL, timeout=None) as http:
                    yield LocalPool(http)
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


def _with_state(app: ASGIApp, state: dict[str, Any]) -> ASGIApp:
    """Give the lifespan's state to every request, as a server does."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return call
