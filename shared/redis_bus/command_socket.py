"""Commands and replies over a socket that redis-py has opened: hiredis's parser as an asyncio protocol.

redis-py's own way, by streams, takes twice the CPU time; more so between two steps, when code is out of the caches
(docs/adr/0004-clients-and-codec-on-the-step-path.md).
"""

import asyncio
from collections import deque
from typing import Any, Final

import hiredis
import redis

from shared.redis_bus.connecting import Argument, reply_parser

_CLOSED: Final = "the connection is closed"
_MOST_UNASKED: Final = 256
"""Published messages that may wait here; beyond that they wait in Redis, which bounds them by its own limits."""


class CommandSocket(asyncio.Protocol):
    """One socket, on which commands are answered in the order in which they are sent.

    Invariant: `_waiting` holds a future for each command without a reply, the oldest first; a future that its task has
    given up stays, so that its reply is not taken for the next one's.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parser = reply_parser()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unasked: deque[Any] = deque()
        self._is_paused = False
        self._listener: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        transport.set_protocol(self)

    @property
    def is_lost(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._error is not None

    def send(self, command: tuple[Argument, ...], *, timeout_s: float) -> asyncio.Future[Any]:
        """Send a command. The future has its reply, or raises what the server says is wrong with it.

        Raises:
            redis.ConnectionError: by the future as well: the socket is lost.
            redis.TimeoutError: by the future: there was no reply in time. The socket is lost.
        """
        if self._error is not None:
            raise redis.ConnectionError(str(self._error))
        reply = self._loop.create_future()
        due_s = self._loop.time() + timeout_s
        self._waiting.append((reply, due_s))
        if self._timer is None:
            self._timer = self._loop.call_at(due_s, self._look_at_the_time)
        try:
            self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub leaves out bytes in longer tuples
        except RuntimeError as error:  # what uvloop says of a socket that was reset while nobody looked
            self._lose(redis.ConnectionError(str(error)))
        return reply

    async def unasked(self) -> Any:  # noqa: ANN401 - a reply's shape depends on the command
        """Wait for what the server sends of its own accord: a published message.

        Raises:
            redis.ConnectionError: the socket is lost.
        """
        while not self._unasked:
            if self._error is not None:
                raise redis.ConnectionError(str(self._error))
            self._listener = self._loop.create_future()
            await self._listener
        message = self._unasked.popleft()
        if self._is_paused and not self._unasked and self._error is None:
            self._is_paused = False
            self._transport.resume_reading()
        return message

    def close(self) -> None:
        """Give up whatever is under way."""
        self._lose(redis.ConnectionError(_CLOSED))

    def data_received(self, data: bytes) -> None:
        """Hand out the replies that are whole."""
        self._parser.feed(data)
        try:
            while (reply := self._parser.gets()) is not False:
                self._hand_out(reply)
        except redis.InvalidResponse as error:
            self._lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or what lies between, has closed the socket."""
        self._lose(redis.ConnectionError(str(exc) if exc else "Redis has closed the connection"))

    def _hand_out(self, reply: Any) -> None:  # noqa: ANN401
        if not self._waiting:
            self._unasked.append(reply)
            if len(self._unasked) >= _MOST_UNASKED and not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
            return self._wake_listener()
        future, _ = self._waiting.popleft()
        if future.done():
            return None
        if isinstance(reply, Exception):
            return future.set_exception(reply)
        return future.set_result(reply)

    def _wake_listener(self) -> None:
        if self._listener is not None and not self._listener.done():
            self._listener.set_result(None)

    def _look_at_the_time(self) -> None:
        """One timer looks after the oldest command, whichever that is by then: a timer for each costs more than it."""
        self._timer = None
        if not self._waiting or self._error is not None:
            return
        _, due_s = self._waiting[0]
        if due_s <= self._loop.time():
            self._lose(redis.TimeoutError("no reply in time"))
        else:
            self._timer = self._loop.call_at(due_s, self._look_at_the_time)

    def _lose(self, error: Exception) -> None:
        if self._error is not None:
            return
        self._error = error
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(type(error)(str(error)))
        self._wake_listener()
