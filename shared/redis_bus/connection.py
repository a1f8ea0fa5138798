"""A connection to Redis of an event loop: redis-py opens it, `CommandSocket` speaks.

What is added here: a connection that is made when it is needed and again after it was lost, a limit to every wait, and
our own errors. A command is sent twice only if its caller says that this does no harm: then a Redis that has just
started again, on whose old socket nobody answers, is not even noticed.
"""

import asyncio
from typing import Any, Final, cast

import redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MovedError

from shared.errors import BusUnavailableError
from shared.redis_bus.command_socket import CommandSocket
from shared.redis_bus.connecting import (
    ASYNC,
    COMMAND_TIMEOUT_S,
    UNREACHABLE,
    Argument,
    check_server,
    maker_of,
    refusal,
    route_of,
    sentinels_of,
    translated,
    unavailable,
)
from shared.redis_bus.name_lookup import look_up
from shared.redis_bus.route import Attempts
from shared.redis_bus.scripts import Script

_CANCEL_AGAIN_S: Final = 0.05


class AsyncConnection:
    """One connection of an event loop. Connects on first use, and again after an error.

    Commands of several tasks are answered in the order in which they were sent: one that waits in the server holds up
    those behind it.

    Args:
        name: What `CLIENT LIST` shows.

    Attributes:
        num_connects: How often it has connected.
    """

    def __init__(self, url: str, name: str) -> None:
        self._route = route_of(url)
        self._maker = maker_of(ASYNC, self._route.url, name, timeout_s=COMMAND_TIMEOUT_S)
        self._opener: AbstractConnection = self._maker.make_connection()
        self._socket: CommandSocket | None = None
        self.num_connects = 0
        self._host: str | None = self._maker.connection_kwargs.get("host")
        self._connecting = asyncio.Lock()

    async def call(self, *command: Argument, wait_s: float = 0.0, is_repeatable: bool = False) -> Any:  # noqa: ANN401 - a reply's shape depends on the command
        """Send one command and return its reply, undecoded.

        Args:
            command: Its words.
            wait_s: How long the server may hold the reply back.
            is_repeatable: Whether the command may be executed twice: it is sent again, once, if the socket breaks.

        Raises:
            redis.ResponseError: the server refuses the command.
            BusUnavailableError: the server does not answer.
        """
        attempts = None
        try:
            while True:
                try:
                    return await self._exchange(command, wait_s)
                except (MovedError, redis.ConnectionError) as error:
                    attempts = attempts or Attempts(self._route, is_repeatable=is_repeatable)
                    if not attempts.go_on(error):
                        raise
        except redis.ResponseError as error:
            raise translated(error) from error
        except UNREACHABLE as error:
            raise unavailable(error) from error

    async def greet(self) -> None:
        """Check that a server is there that lets us in and is new enough.

        Raises:
            ConfigurationError: it is there, and will not do.
            BusUnavailableError: it is not there.
        """
        try:
            check_server(await self.call("INFO", "server"), self._route)
        except BusUnavailableError as error:
            raise refusal(error) from error

    async def run(self, script: Script, keys: list[str], *arguments: Argument) -> Any:  # noqa: ANN401
        """Run a script; raises as `call` does."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await self.call("EVALSHA", script.sha, *rest, is_repeatable=script.is_repeatable)
        except redis.exceptions.NoScriptError:
            return await self.call("EVAL", script.text, *rest, is_repeatable=script.is_repeatable)

    async def next_reply(self) -> Any:  # noqa: ANN401
        """Wait, without limit, for something the server sends unasked: a published message; raises as `call` does."""
        try:
            if self._socket is None:
                raise redis.ConnectionError("nothing was asked for")
            return await self._socket.unasked()
        except UNREACHABLE as error:
            await self.close()
            raise unavailable(error) from error

    async def close(self) -> None:
        """Disconnect. What is under way fails."""
        await self._disconnect()
        for sentinel in sentinels_of(self._maker):
            await sentinel.aclose()

    async def _exchange(self, command: tuple[Argument, ...], wait_s: float) -> Any:  # noqa: ANN401
        socket = self._socket
        if socket is None or socket.is_lost:
            socket = await self._connect()
        try:
            return await socket.send(command, timeout_s=COMMAND_TIMEOUT_S + wait_s)
        except redis.ReadOnlyError as error:  # a primary no more: the sentinels, if there are any, know the new one
            socket.close()
            raise redis.ConnectionError(str(error)) from error
        except MovedError:
            socket.close()
            raise
        except asyncio.CancelledError:
            if wait_s:  # nobody else is to wait for what nobody wants
                socket.close()
            raise

    async def _connect(self) -> CommandSocket:
        async with self._connecting:
            if self._socket is not None and not self._socket.is_lost:
                return self._socket  # by another task, meanwhile
            await self._disconnect()
            opening = asyncio.ensure_future(self._open())
            try:
                if not (await asyncio.wait({opening}, timeout=COMMAND_TIMEOUT_S))[0]:
                    raise redis.TimeoutError("no reply in time")
                opening.result()
            except BaseException:
                await self._give_up(opening)
                raise
            writer = self._opener._writer  # noqa: SLF001 - it offers no way to take its socket over
            assert writer is not None
            self._socket = CommandSocket(cast("asyncio.Transport", writer.transport))
            self.num_connects += 1
            return self._socket

    async def _open(self) -> None:
        """Connect to a server, whichever is there."""
        num_left = self._route.num_servers
        while True:
            if address := self._route.next():
                self._opener.host, self._opener.port = address  # type: ignore[attr-defined]  # it is a TCP connection
            host = address.host if address else self._host
            try:
                if host is not None:
                    await asyncio.wrap_future(look_up(host))
                await self._shake_hands()
            except UNREACHABLE:
                self._route.lost()
                num_left -= 1
                if not num_left:
                    raise
            else:
                return

    async def _shake_hands(self) -> None:
        try:
            await self._opener.connect()  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # what uvloop says of a socket that was reset between two commands
            raise redis.ConnectionError(str(error)) from error

    async def _give_up(self, opening: asyncio.Future[None]) -> None:
        """End an attempt, and tell it until it does: redis-py calls `wait_for`, deaf at times before Python 3.12."""
        try:
            while not opening.done():
                opening.cancel()
                await asyncio.wait({opening}, timeout=_CANCEL_AGAIN_S)
            if not opening.cancelled():
                opening.exception()
        finally:
            await self._disconnect()

    async def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        await self._opener.disconnect(nowait=True)
