"""uvicorn's HTTP, with a way for pieces of a body that is as short as it can be: an ASGI extension of our own.

ASGI's `send` is a coroutine for each piece, within one of each middleware's, in a task that had to be woken up. What is
streamed token by token is written to the transport instead, by whoever brings the token; see docs/adr.
"""

import asyncio
from typing import Final

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_EXTENSION: Final = "pagestream.body_writer"


class _Outbox:
    """What is to be written in one turn of the event loop: all of it in one go, behind everything that makes it.

    Where system calls and Python take turns, each finds the processor's caches full of the other.
    """

    def __init__(self) -> None:
        self._writers: list[BodyWriter] = []

    def add(self, writer: "BodyWriter") -> None:
        if not self._writers:
            asyncio.get_running_loop().call_soon(self._flush)
        self._writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.flush()


class BodyWriter:
    """Writes pieces of one response's body. Its start and its end go through `send`.

    Args:
        cycle: The response.
        outbox: Of the server.
    """

    def __init__(self, cycle: RequestResponseCycle, outbox: _Outbox) -> None:
        self._cycle = cycle
        self._outbox = outbox
        self._pending = b""

    def is_ready(self) -> bool:
        """Whether the client reads fast enough, so that little waits to be sent. If not, `send` waits for it."""
        return not self._cycle.flow.write_paused

    def write(self, data: bytes) -> None:
        """Send a piece, which is not empty, after the response's start and in this turn of the event loop.

        A client that has hung up does not get it.
        """
        if not self._pending:
            self._outbox.add(self)
        self._pending += b"%x\r\n%b\r\n" % (len(data), data) if self._cycle.chunked_encoding else data

    def flush(self) -> None:
        """Send it now, since `send` comes next."""
        data, self._pending = self._pending, b""
        transport = self._cycle.transport
        if data and not self._cycle.disconnected and not transport.is_closing():
            transport.write(data)


def body_writer_of(scope: Scope) -> BodyWriter | None:
    """The one of a request's response; None on another server, where all goes through `send`."""
    writer = scope.get("extensions", {}).get(_EXTENSION, {}).get("writer")
    assert writer is None or isinstance(writer, BodyWriter)
    return writer


def streaming_protocol() -> type[HttpToolsProtocol]:
    """The protocol of one server's connections, which offers a `BodyWriter` with each request."""
    outbox = _Outbox()

    class StreamingProtocol(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            if getattr(self.cycle, "scope", None) is self.scope:  # else it is no request of HTTP's
                self.scope["extensions"] = {_EXTENSION: {"writer": BodyWriter(self.cycle, outbox)}}

    return StreamingProtocol
