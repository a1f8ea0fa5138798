"""HTTP/1.1 as a load generator needs it: bytes reach the measurement in the call that the event loop makes with them.

General clients hand each piece of a body through layers of coroutines. CPU time per streamed token, as seen with 32
streams of 50 tokens/s: httpx 177 µs (102 on uvloop), aiohttp 56 (32), this with all that is recorded 52 (21). Where
client and server share a machine, it is taken from what is measured. The parser is httptools', which was Node's.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from shared.errors import ConfigurationError

_CONNECT_TIMEOUT_S: Final = 60.0
_MAX_IDLE_S: Final = 1.0
"""Less than the time after which any server closes a connection that it deems unused."""

OnBody = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A status, and the body if nobody took it as it came."""

    status: int
    body: bytes


class HttpClient:
    """Connections to one server, as many as are in use at once."""

    def __init__(self, root_url: str, *, insecure: bool) -> None:
        """Understand the address; nothing is sent yet.

        Raises:
            ConfigurationError: it is no http or https address.
        """
        url = urlsplit(root_url)
        try:
            port = url.port
        except ValueError:
            port = -1
        if url.scheme not in {"http", "https"} or not url.hostname or port == -1:
            raise ConfigurationError(f"--base-url {root_url!r} is no address; write one like http://127.0.0.1:8000")
        self._host, self._port = url.hostname, port or (443 if url.scheme == "https" else 80)
        self._authority, self._base_path = url.netloc.rpartition("@")[2], url.path.rstrip("/")
        self._ssl = _ssl_context(insecure=insecure) if url.scheme == "https" else None
        self._idle: list[_Connection] = []

    async def request(
        self, method: str, path: str, *, headers: Mapping[str, str], body: bytes = b"", on_body: OnBody | None = None
    ) -> HttpResponse:
        """Send a request and wait for the end of its response.

        Args:
            method: Such as POST.
            path: Below the server's address.
            headers: Beyond those that HTTP itself needs.
            body: What is sent.
            on_body: Takes the body of a response with status 200 piece by piece. What it raises ends the exchange.

        Raises:
            OSError: the server cannot be reached, or hung up.
        """
        lines = [f"{method} {self._base_path}{path} HTTP/1.1", f"Host: {self._authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
        connection = self._take_idle() or await self._connect()
        try:
            response = await connection.exchange(head.encode() + body, on_body)
        except BaseException:
            connection.abort()
            raise
        if connection.is_reusable:
            self._idle.append(connection)
        return response

    def close(self) -> None:
        """Let go of all connections."""
        while self._idle:
            self._idle.pop().abort()

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable and time.monotonic() - connection.idle_since_s < _MAX_IDLE_S:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._ssl)
        except TimeoutError as error:
            raise ConnectionError(f"no connection to {self._authority} within {_CONNECT_TIMEOUT_S:.0f} s") from error
        return connection


class _Connection(asyncio.Protocol):
    """One exchange after the other."""

    def __init__(self) -> None:
        self.is_reusable = False
        self.idle_since_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[HttpResponse] | None = None
        self._on_body: OnBody | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._ends_with_connection = False

    async def exchange(self, request: bytes, on_body: OnBody | None) -> HttpResponse:
        assert self._transport is not None
        self.is_reusable = False
        self._on_body = on_body
        self._body.clear()
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done

    def abort(self) -> None:
        self._done = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            self._fail(error.__context__ or error)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"the answer is no HTTP/1.1: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_reusable = False
        if error is None and self._ends_with_connection:
            self.on_message_complete()
        else:
            self._fail(error or ConnectionError("the server closed the connection before the end of its answer"))

    def on_headers_complete(self) -> None:
        self._ends_with_connection = not self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self._on_body is not None and self._parser.get_status_code() == HTTPStatus.OK:
            self._on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        if self._done is not None and not self._done.done():
            self.is_reusable = self._parser.should_keep_alive()
            self.idle_since_s = time.monotonic()
            self._done.set_result(HttpResponse(self._parser.get_status_code(), bytes(self._body)))

    def _fail(self, error: BaseException) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)


def _ssl_context(*, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
