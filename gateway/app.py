"""The application: makes the collaborators, starts what runs beside the routes, and stops it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from gateway.api import Gateway, LifespanState, public, v1
from gateway.completion import CompletionStarter
from gateway.errors import install_error_handlers
from gateway.metrics import GatewayMetrics
from gateway.middleware import RequestBoundary
from gateway.pool_monitor import PoolMonitor
from gateway.settings import GatewaySettings
from gateway.streams import TokenRouter
from gateway.submission_builder import SubmissionBuilder
from gateway.tokenizer import Tokenizer
from shared.bus import GatewayBus


class GatewayApp(FastAPI):
    """A FastAPI application that knows its token router, which its server needs at the end."""

    def __init__(self, settings: GatewaySettings, bus: GatewayBus, tokenizer: Tokenizer) -> None:
        self.token_router = TokenRouter(bus, time.monotonic)
        self._monitor = PoolMonitor(bus)
        max_model_len = _context_length(settings, self._monitor)
        self._gateway = Gateway(
            settings=settings,
            submissions=SubmissionBuilder(
                tokenizer,
                max_model_len,
                max_logprobs=settings.max_logprobs,
                trusts_templates=settings.trust_request_chat_template,
            ),
            completions=CompletionStarter(
                bus=bus,
                router=self.token_router,
                vocabulary=tokenizer.vocabulary,
                metrics=GatewayMetrics(settings.model_names[0]),
                max_requests=settings.max_num_queued_reqs,
            ),
            monitor=self._monitor,
            max_model_len=max_model_len,
            started_s=int(time.time()),
        )
        super().__init__(title="pagestream", lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None)

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[LifespanState]:
        await self._monitor.refresh()
        background = [asyncio.create_task(self.token_router.run()), asyncio.create_task(self._monitor.run())]
        try:
            yield {"gateway": self._gateway}
        finally:
            for task in background:
                task.cancel()
            for task in background:
                with suppress(asyncio.CancelledError):
                    await task


def create_app(settings: GatewaySettings, bus: GatewayBus, tokenizer: Tokenizer) -> GatewayApp:
    """Make a gateway out of its collaborators. The caller owns the bus, and closes it after the application."""
    app = GatewayApp(settings, bus, tokenizer)
    app.include_router(v1)
    app.include_router(public)
    app.add_middleware(RequestBoundary)
    install_error_handlers(app)
    return app


def _context_length(settings: GatewaySettings, monitor: PoolMonitor) -> Callable[[], int | None]:
    """The smaller of what the settings allow and what the workers hold; None while neither is known."""

    def context_length() -> int | None:
        of_workers = monitor.status.max_model_len if monitor.status else 0
        return min((limit for limit in (settings.max_model_len, of_workers) if limit), default=None)

    return context_length
