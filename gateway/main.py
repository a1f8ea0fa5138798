"""A gateway process: builds the parts, serves until a signal, and ends without cutting anybody off in silence."""

import asyncio
import contextlib
import dataclasses
import gc
import logging
import math
import os
import socket
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Final

import uvicorn

from gateway.app import GatewayApp, create_app
from gateway.http.body_writer import streaming_protocol
from gateway.http.connection import MAX_WRITE_S
from gateway.settings import GatewaySettings
from gateway.storage.archives import Archives
from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.tokenizer_loading import load_tokenizer
from shared.bus import GatewayBus
from shared.checkpoint import resolve
from shared.model_config import ModelConfig
from shared.redis_bus import RedisGatewayBus, await_redis
from shared.stop_signals import STOP_SIGNALS, exit_on_stop_signals

_logger = logging.getLogger(__name__)

_LAST_WORDS_S: Final = 0.5
"""Time for streams to send their error event, after the grace is over."""


class GatewayServer(uvicorn.Server):
    """Uvicorn with an end in three parts: no new requests, a grace for running streams, an error for the rest."""

    def __init__(self, app: GatewayApp, settings: GatewaySettings) -> None:
        self._app = app
        self._settings = settings
        super().__init__(
            uvicorn.Config(
                app,
                http=streaming_protocol(),
                host=settings.host,
                port=settings.port,
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="on",
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
                timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout + _LAST_WORDS_S),
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._bound_unread_data()
            gc.collect()
            gc.freeze()  # tokenizer and application live for ever: later collections need not look at them
            settings = self._settings
            names, scheme = ", ".join(settings.model_names), "https" if settings.ssl_certfile else "http"
            _logger.info("serving %s at %s://%s:%d", names, scheme, settings.host, settings.port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let running requests end, and tell those that did not."""
        call_later = asyncio.get_running_loop().call_later
        grace_s = self._settings.shutdown_timeout
        message = "the gateway is shutting down; send the request again"
        timers = [
            call_later(grace_s, self._app.end_streams, HTTPStatus.SERVICE_UNAVAILABLE, message),
            call_later(grace_s + _LAST_WORDS_S, self._cancel_requests),
        ]
        try:
            await super().shutdown(sockets)
        finally:
            for timer in timers:
                timer.cancel()

    def _bound_unread_data(self) -> None:
        """Have the system break connections whose client does not read, also those that nobody writes to any more."""
        if not hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux alone has it
            return
        for server in self.servers:
            for listener in server.sockets:
                with socket.socket(fileno=os.dup(listener.fileno())) as same:  # connections inherit its options
                    if same.family in {socket.AF_INET, socket.AF_INET6}:
                        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(MAX_WRITE_S * 1000))

    def _cancel_requests(self) -> None:
        """Those that have no stream yet, for Redis hangs, or whose client does not read."""
        for task in self.server_state.tasks:
            task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server, and the process then ends by itself instead of by the signal."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)


async def serve(
    settings: GatewaySettings,
    bus: GatewayBus,
    tokenizer: Tokenizer,
    archives: Archives,
    *,
    sockets: Sequence[socket.socket] | None = None,
) -> None:
    """Serve on a bus until SIGINT or SIGTERM, then close it and the archives.

    Args:
        settings: Host and port are those of `sockets`, if there are any.
        bus: Of one pool.
        tokenizer: Of the pool's model.
        archives: Of the pool.
        sockets: Already bound.
    """
    server = GatewayServer(create_app(settings, bus, tokenizer, archives), settings)
    try:
        await server.serve(sockets=None if sockets is None else list(sockets))
    finally:
        await archives.close()
        await bus.close()


def run(settings: GatewaySettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigurationError: the model's files cannot be found or read, or Redis will not do.
    """
    exit_on_stop_signals()
    checkpoint = resolve(settings.model)
    config = ModelConfig.from_checkpoint(checkpoint)
    tokenizer = load_tokenizer(checkpoint, config)
    max_model_len = min(settings.max_model_len or config.max_context, config.max_context)
    settings = dataclasses.replace(settings, max_model_len=max_model_len)
    with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto").get_loop_factory()) as runner:
        runner.run(_serve_on_redis(settings, tokenizer))
    _logger.info("ended")
    return 0


async def _serve_on_redis(settings: GatewaySettings, tokenizer: Tokenizer) -> None:
    connecting = asyncio.ensure_future(await_redis(lambda: RedisGatewayBus.connect(settings.redis_url, settings.pool)))
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, connecting.cancel)
    try:
        bus = await connecting
    except asyncio.CancelledError:
        return
    await serve(settings, bus, tokenizer, Archives.on_redis(settings))
