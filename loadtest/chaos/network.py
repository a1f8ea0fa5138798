"""The network between one service and Redis, made of two sockets and this process: it can be cut, stopped or deafened.

What a client of Redis sees on a broken network is one of three: its connection is reset; nothing arrives any more in
either direction while the connection stands; or commands arrive and are executed, and their replies are lost.
"""

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from typing import Final, Self, cast

_NO_TIME: Final = struct.pack("ii", 1, 0)
_SET_NAME: Final = re.compile(rb"SETNAME\r\n\$\d+\r\n([^\r]+)\r\n")


class Link:
    """Listens where one service looks for Redis, and carries bytes between the two.

    Attributes:
        names: What the service calls its open connections, as `CLIENT LIST` shows them.
    """

    def __init__(self, redis_socket: str) -> None:
        self._redis_socket = redis_socket
        self._server: asyncio.Server | None = None
        self._sides: set[_Side] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self._is_deaf = False
        self.names: set[str] = set()

    async def open(self) -> Self:
        """Listen on a free port of this machine."""
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        return self

    @property
    def url(self) -> str:
        """Where the service finds Redis."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"redis://{host}:{port}/0"

    def cut(self) -> None:
        """Reset every connection. New ones are let through."""
        for side in list(self._sides):
            side.abort()

    def stop(self) -> None:
        """Carry nothing in either direction, on connections old and new, until `go_on`."""
        self._is_stopped = True
        for side in self._sides:
            side.pause_reading()

    def go_on(self) -> None:
        """Carry everything again, what was held back included."""
        self._is_stopped = False
        for side in self._sides:
            side.resume_reading()

    def deafen(self) -> None:
        """From now on drop what Redis says, until the connections are cut by `hear_again`."""
        self._is_deaf = True

    def hear_again(self) -> None:
        """End that, by a reset: the replies that are missing will never come."""
        self.cut()
        self._is_deaf = False

    async def close(self) -> None:
        """Listen no more, and cut what is left."""
        if self._server is not None:
            self._server.close()
        for task in self._opening:
            task.cancel()
        self.cut()

    def _accept(self) -> "_Side":
        side = _Side(self, on_open=self._connect)
        self._sides.add(side)
        return side

    def _connect(self, service: "_Side") -> None:
        task = asyncio.get_running_loop().create_task(self._join(service))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _join(self, service: "_Side") -> None:
        redis = _Side(self, peer=service)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: redis, self._redis_socket)
        except OSError:
            service.abort()
            return
        self._sides.add(redis)
        service.meet(redis)
        if self._is_stopped:
            service.pause_reading()
            redis.pause_reading()

    def carry(self, side: "_Side", data: bytes) -> None:
        """Take what came in at one side to the other."""
        if side.is_service:
            self.names.update(name.decode() for name in _SET_NAME.findall(data))
        elif self._is_deaf:
            return
        side.send(data)

    def lose(self, side: "_Side") -> None:
        """One side is gone; so is the other."""
        self._sides.discard(side)
        if side.peer is not None:
            side.peer.abort()


class _Side(asyncio.Protocol):
    """One of the two sockets of a connection. What comes in before it has a peer is kept for it."""

    def __init__(
        self, link: Link, *, peer: "_Side | None" = None, on_open: "Callable[[_Side], None] | None" = None
    ) -> None:
        self.peer = peer
        self.is_service = on_open is not None
        self._link = link
        self._on_open = on_open
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        if self._on_open is not None:
            self._on_open(self)

    def data_received(self, data: bytes) -> None:
        self._link.carry(self, data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._link.lose(self)

    def meet(self, peer: "_Side") -> None:
        self.peer = peer
        early, self._early = self._early, []
        for data in early:
            self.send(data)

    def send(self, data: bytes) -> None:
        if self.peer is None:
            self._early.append(data)
        elif (transport := self.peer.open_transport) is not None:
            transport.write(data)

    @property
    def open_transport(self) -> asyncio.Transport | None:
        return None if self._transport is None or self._transport.is_closing() else self._transport

    def pause_reading(self) -> None:
        if (transport := self.open_transport) is not None and transport.is_reading():
            transport.pause_reading()

    def resume_reading(self) -> None:
        if (transport := self.open_transport) is not None and not transport.is_reading():
            transport.resume_reading()

    def abort(self) -> None:
        if (transport := self.open_transport) is not None:
            # Without time to linger a close is a reset, as from a machine that knows the connection no more.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_TIME)
            transport.abort()
