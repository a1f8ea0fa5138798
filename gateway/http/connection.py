"""The client's connection: how much of a body is read, and what happens when the client hangs up."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from gateway.completions.completion import Completion
from gateway.http.sse import DONE, EventWriter, event
from gateway.protocol.errors import as_request_error, error_json
from gateway.text.choice_text import TextDelta
from shared.errors import RequestTooLargeError

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")
MAX_WRITE_S: Final = 30.0
"""How long a client may leave what it was sent unread."""

_STATUS_CLIENT_CLOSED: Final = 499
"""nginx's status for a client that hung up; nobody reads it, it is for the log."""


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Read a body, and no more of it than is allowed.

    Raises:
        RequestTooLargeError: it is larger.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(body)


def _too_large(max_bytes: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"the body is larger than {max_bytes} bytes", code="request_too_large")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _T]) -> _T:
    """Do some work, and cancel it as soon as the client hangs up. The body must have been read.

    Raises:
        ClientDisconnect: the client hung up first.
    """
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_until_disconnect(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class WholeResponse(Response):
    """Waits for the end of a completion, and answers with all of it."""

    def __init__(self, completion: Completion, render: Callable[[Completion], Coroutine[Any, Any, Response]]) -> None:
        super().__init__()
        self._completion = completion
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client hangs up."""
        try:
            response = await while_connected(receive, self._render(self._completion))
        except ClientDisconnect:
            response = Response(status_code=_STATUS_CLIENT_CLOSED)
        finally:
            self._completion.close()
        await response(scope, receive, send)


class WorkResponse(Response):
    """Waits for the work that makes the answer, which is given up if the client hangs up."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, Response]]) -> None:
        super().__init__()
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client hangs up."""
        try:
            response = await while_connected(receive, self._work())
        except ClientDisconnect:
            response = Response(status_code=_STATUS_CLIENT_CLOSED)
        await response(scope, receive, send)


class EventStreamResponse(Response):
    """Sends a completion as server-sent events, and closes it whatever happens."""

    media_type = "text/event-stream"

    def __init__(self, completion: Completion, writer: EventWriter, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._completion = completion
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, unless the client hangs up."""
        try:
            await while_connected(receive, self._stream(send))
        except ClientDisconnect:
            _logger.debug("the client hung up")
        finally:
            self._completion.close()

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": self.raw_headers})
        await self._send_part(send, self._writer.opening(self._completion.prompts))
        try:
            while not self._completion.is_done:
                await self._send_part(send, b"".join(self._events(await self._completion.next())))
        except ClientDisconnect:
            raise
        except Exception as error:
            self._completion.close("error")
            await self._send_part(send, event(error_json(as_request_error(error))))
        else:
            if self._writer.wants_usage:
                await self._send_part(send, self._writer.usage(self._completion.usage))
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    def _events(self, deltas: Iterable[TextDelta]) -> Iterator[bytes]:
        for delta in deltas:
            usage = self._completion.usage if self._writer.wants_continuous_usage else None
            yield self._writer.delta(delta, usage)

    async def _send_part(self, send: Send, data: bytes) -> None:
        """Send a piece, and wait until little of it is left to be read."""
        if not data:
            return
        try:
            async with asyncio.timeout(MAX_WRITE_S):
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except TimeoutError:
            _logger.info("a client did not read for %.0f s, and is cut off", MAX_WRITE_S)
            raise ClientDisconnect from None
