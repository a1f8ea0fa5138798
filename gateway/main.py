"""A gateway process: builds the parts, serves until a signal, and ends without cutting anybody off in silence."""

import asyncio
import contextlib
import dataclasses
import logging
import signal
import socket
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final

import uvicorn

from gateway.app import GatewayApp, create_app
from gateway.settings import GatewaySettings
from gateway.tokenizer import Tokenizer
from gateway.tokenizer_loading import load_tokenizer
from shared.bus import GatewayBus
from shared.checkpoint import resolve
from shared.model_config import ModelConfig
from shared.redis_bus import RedisGatewayBus

_logger = logging.getLogger(__name__)

_LAST_WORDS_S: Final = 2.0
"""Time for streams to send their error event, after the grace is over."""


class GatewayServer(uvicorn.Server):
    """Uvicorn with an end in three parts: no new requests, a grace for running streams, an error for the rest."""

    def __init__(self, app: GatewayApp, settings: GatewaySettings) -> None:
        self._app = app
        self._grace_s = settings.shutdown_timeout_s
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=round(settings.shutdown_timeout_s + _LAST_WORDS_S),
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let running requests end, and tell those that did not."""
        last_words = asyncio.get_running_loop().call_later(
            self._grace_s,
            self._app.token_router.fail_all,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the gateway is shutting down; send the request again",
        )
        try:
            await super().shutdown(sockets)
        finally:
            last_words.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server, and the process then ends by itself instead of by the signal."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)


async def serve(
    settings: GatewaySettings,
    bus: GatewayBus,
    tokenizer: Tokenizer,
    *,
    sockets: Sequence[socket.socket] | None = None,
) -> None:
    """Serve on a bus until SIGINT or SIGTERM, then close it.

    Args:
        settings: Host and port are those of `sockets`, if there are any.
        bus: Of one pool.
        tokenizer: Of the pool's model.
        sockets: Already bound.
    """
    server = GatewayServer(create_app(settings, bus, tokenizer), settings)
    _logger.info("serving %s at http://%s:%d", ", ".join(settings.model_names), settings.host, settings.port)
    try:
        await server.serve(sockets=None if sockets is None else list(sockets))
    finally:
        await bus.close()


async def _run(settings: GatewaySettings) -> None:
    checkpoint = resolve(settings.model)
    config = ModelConfig.from_checkpoint(checkpoint)
    tokenizer = load_tokenizer(checkpoint, config)
    max_model_len = min(settings.max_model_len or config.max_context, config.max_context)
    bus = await RedisGatewayBus.connect(settings.redis_url, settings.pool)
    await serve(dataclasses.replace(settings, max_model_len=max_model_len), bus, tokenizer)


def run(settings: GatewaySettings) -> None:
    """Be a gateway process until a signal ends it.

    Raises:
        ConfigurationError: the model's files cannot be found or read.
        BusUnavailableError: Redis does not answer.
    """
    with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto").get_loop_factory()) as runner:
        runner.run(_run(settings))
