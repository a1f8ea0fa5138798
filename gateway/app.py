"""The application: makes the collaborators, starts what runs beside the routes, and stops it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from gateway.access.admission import Admission
from gateway.access.boundary import AccessBoundary
from gateway.access.keyring import Keyring
from gateway.answering import Answering
from gateway.api import public, v1
from gateway.background import batch_jobs, response_jobs
from gateway.batches.service import BatchService
from gateway.chat.chat_format import ChatFormat
from gateway.chat.output_planner import OutputPlanner
from gateway.completions.completion import CompletionStarter
from gateway.completions.submission_builder import SubmissionBuilder
from gateway.context import Gateway, LifespanState, check_model_name
from gateway.embeddings.service import EmbeddingService
from gateway.files.shelf import FileShelf
from gateway.grammars.grammar_check import GrammarCheck
from gateway.http.loopback import Loopback
from gateway.http.middleware import RequestBoundary
from gateway.http.openapi import describe, operation_id
from gateway.monitoring.metrics import GatewayMetrics
from gateway.monitoring.pool_monitor import PoolMonitor
from gateway.protocol.errors import install_error_handlers
from gateway.responses.service import ResponseService
from gateway.resumption.followers import Followers
from gateway.resumption.keeper import StreamKeeper
from gateway.settings import GatewaySettings
from gateway.storage.archives import Archives
from gateway.streaming.streams import TokenRouter
from gateway.tokenizers.tokenizer import Tokenizer
from shared.bus import GatewayBus


class GatewayApp(FastAPI):
    """A FastAPI application that knows its token router, which its server needs at the end."""

    def __init__(self, settings: GatewaySettings, bus: GatewayBus, tokenizer: Tokenizer, archives: Archives) -> None:
        self.token_router = TokenRouter(bus, time.monotonic)
        self._monitor = PoolMonitor(bus)
        self.admission = Admission(
            max_calls=settings.max_num_calls, max_bytes=settings.max_num_call_bytes, requests_per_s=self._requests_per_s
        )
        self._grammar_check = GrammarCheck(tokenizer)
        max_model_len = _context_length(settings, self._monitor)
        form = ChatFormat.choose(
            tokenizer,
            tool_call_parser=settings.tool_call_parser,
            reasoning_parser=settings.reasoning_parser,
            has_auto_calls=settings.enable_auto_tool_choice,
        )
        max_requests = settings.max_num_queued_reqs
        submissions = SubmissionBuilder(
            tokenizer,
            max_model_len,
            OutputPlanner(form, self._grammar_check),
            max_logprobs=settings.max_logprobs,
            trusts_templates=settings.trust_request_chat_template,
        )
        self._keeper = StreamKeeper(archives.streams, time.monotonic, grace_s=settings.resume_grace_s)
        self._followers = Followers(bus, time.monotonic, self._epoch)
        completions = CompletionStarter(
            bus=bus,
            router=self.token_router,
            vocabulary=tokenizer.vocabulary,
            metrics=GatewayMetrics(settings.model_names[0]),
            keeper=self._keeper,
            followers=self._followers,
            max_requests=max_requests,
        )
        responses = ResponseService(archives.responses, submissions, completions, max_jobs=max_requests)
        files = FileShelf(archives.files, max_file_bytes=settings.max_file_bytes)
        self.keyring = Keyring.load(settings.api_keys, settings.api_key_file)
        loopback = Loopback(self, self._lifespan_state, self.keyring.local)
        self._gateway = Gateway(
            settings=settings,
            admission=self.admission,
            answering=Answering(
                submissions, completions, self._monitor, partial(check_model_name, settings.model_names)
            ),
            submissions=submissions,
            completions=completions,
            monitor=self._monitor,
            responses=responses,
            response_jobs=response_jobs(archives, responses),
            embeddings=EmbeddingService(submissions.prompts, completions, max_model_len, pooling=settings.pooling),
            files=files,
            batches=BatchService(archives.batches, files),
            batch_jobs=batch_jobs(archives, files, loopback, self._monitor.is_idle),
            max_model_len=max_model_len,
            started_s=int(time.time()),
        )
        super().__init__(
            title="pagestream",
            version=version("pagestream"),
            lifespan=self._lifespan,
            redoc_url=None,
            generate_unique_id_function=operation_id,
        )

    def openapi(self) -> dict[str, Any]:
        """The description of the API."""
        if self.openapi_schema is None:
            self.openapi_schema = describe(self)
        return self.openapi_schema

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[LifespanState]:
        self._grammar_check.prepare()
        await self._monitor.refresh()
        # In the order of their end: jobs are handed back, and cancelled in the pool, while tokens are still routed.
        jobs = (self._gateway.batch_jobs, self._gateway.response_jobs)
        runners = (*jobs, self._keeper, self._followers, self.token_router, self._monitor)
        background = [asyncio.create_task(runner.run()) for runner in runners]
        try:
            yield self._lifespan_state()
        finally:
            for task in background:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def end_streams(self, status: int, message: str) -> None:
        """End every stream that is open here with an error. Those that are kept can be gone on with elsewhere."""
        self._keeper.hand_over()
        self.token_router.fail_all(status, message)
        self._followers.fail_all(status, message)

    def _epoch(self) -> int | None:
        return self._monitor.status.epoch if self._monitor.status else None

    def _requests_per_s(self) -> float:
        return self._monitor.status.requests_per_s if self._monitor.status else 0.0

    def _lifespan_state(self) -> LifespanState:
        return {"gateway": self._gateway}


def create_app(settings: GatewaySettings, bus: GatewayBus, tokenizer: Tokenizer, archives: Archives) -> GatewayApp:
    """Make a gateway out of its collaborators. The caller owns bus and archives, and closes them afterwards.

    Raises:
        ConfigurationError: the file of API keys is wrong.
    """
    app = GatewayApp(settings, bus, tokenizer, archives)
    app.include_router(v1)
    app.include_router(public)
    app.add_middleware(AccessBoundary, app.keyring, app.admission, max_body_bytes=settings.max_body_bytes)
    app.add_middleware(RequestBoundary)
    install_error_handlers(app)
    return app


def _context_length(settings: GatewaySettings, monitor: PoolMonitor) -> Callable[[], int | None]:
    """The smaller of what the settings allow and what the workers hold; None while neither is known."""

    def context_length() -> int | None:
        of_workers = monitor.status.max_model_len if monitor.status else 0
        return min((limit for limit in (settings.max_model_len, of_workers) if limit), default=None)

    return context_length
