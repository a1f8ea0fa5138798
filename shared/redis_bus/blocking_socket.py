"""`CommandSocket` for threads: hiredis's parser over a socket that redis-py has opened."""

import socket
import ssl
from typing import Any

import hiredis
import redis

from shared.redis_bus.connecting import Argument, reply_parser

_READ_BYTES = 1 << 16


class BlockingSocket:
    """One socket, for one command at a time. After an error it is of no further use."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._parser = reply_parser()
        # One for all replies: an object for each, of this size and then shrunk, leaves the heap in pieces.
        self._buffer = bytearray(_READ_BYTES)

    def exchange(self, command: tuple[Argument, ...], *, timeout_s: float) -> Any:  # noqa: ANN401 - a reply's shape depends on the command
        """Send a command and wait for its reply.

        Raises:
            redis.ResponseError: the server refuses the command; the socket is as good as before.
            redis.ConnectionError: the socket is closed.
            redis.InvalidResponse: what came is no reply.
            OSError: among others TimeoutError, there was no reply in time.
        """
        parser, opened = self._parser, self._socket
        opened.settimeout(timeout_s)
        opened.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub knows tuples of one item
        while (reply := parser.gets()) is False:
            parser.feed(self._buffer, 0, self._read())  # type: ignore[arg-type]  # its stub knows no buffers
        if isinstance(reply, Exception):
            raise reply
        return reply

    def is_open(self) -> bool:
        """Whether the server has said nothing, its goodbye included, since the last reply."""
        self._socket.settimeout(0.0)
        try:
            self._read()
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except (OSError, redis.ConnectionError):
            return False
        return False

    def _read(self) -> int:
        """Fill the buffer with what has come; returns how much."""
        num_bytes = self._socket.recv_into(self._buffer)
        if not num_bytes:
            raise redis.ConnectionError("Redis has closed the connection")
        return num_bytes
