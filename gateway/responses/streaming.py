"""Responses as streams of events: of one that is made for this client, and of one that is made in the background."""

import logging
import time
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from gateway.completions.completion import Completion
from gateway.http.connection import while_connected
from gateway.protocol.errors import as_request_error
from gateway.responses.events import ResponseEvents
from gateway.responses.resource import StoredResponse
from gateway.responses.service import ResponseService, fault_of
from shared.errors import NotFoundError

_logger = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
"""How often one looks whether a quiet response is over: cancelled, deleted or expired."""


class _EventStream(Response):
    """Sends events as long as the client listens."""

    media_type = "text/event-stream"

    def __init__(self) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, unless the client hangs up."""
        try:
            await while_connected(receive, self._run(send))
        except ClientDisconnect:
            _logger.debug("the client hung up")

    def _stream(self, send: Send) -> Coroutine[Any, Any, None]:
        raise NotImplementedError

    async def _run(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": self.raw_headers})
        await self._stream(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _send(send: Send, frames: Sequence[bytes]) -> None:
        if frames:
            await send({"type": "http.response.body", "body": b"".join(frames), "more_body": True})


class LiveStream(_EventStream):
    """Makes a response while its client listens; it ends with it. It is kept before its last event is sent."""

    def __init__(self, service: ResponseService, stored: StoredResponse, completion: Completion) -> None:
        super().__init__()
        self._service = service
        self._stored = stored
        self._completion = completion
        self._events = ResponseEvents(stored.response)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, unless the client hangs up."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._completion.close()

    async def _stream(self, send: Send) -> None:
        await self._send(send, [*self._events.create(), *self._events.start()])
        try:
            frames: list[bytes] = []
            while not self._completion.is_done:
                await self._send(send, frames)
                frames = await self._next()
            await self._service.keep(msgspec.structs.replace(self._stored, response=self._events.response))
        except Exception as error:
            self._completion.close("error")
            frames = self._events.fail(fault_of(as_request_error(error)))
        await self._send(send, frames)

    async def _next(self) -> list[bytes]:
        frames = []
        for delta in await self._completion.next():
            frames += self._events.push(self._service.piece(delta))
            if delta.finish_reason is not None:
                frames += self._events.end(delta.finish_reason, self._completion.usage, now_s=int(time.time()))
        return frames


class ReplayStream(_EventStream):
    """Sends the events of a background response from a number on, as they are written."""

    def __init__(self, service: ResponseService, response_id: str, *, start: int) -> None:
        super().__init__()
        self._service = service
        self._response_id = response_id
        self._start = start

    async def _stream(self, send: Send) -> None:
        is_over = False
        while True:
            frames = await self._service.archive.parts(
                self._response_id, self._start, timeout_s=0.0 if is_over else _LOOK_S
            )
            await self._send(send, frames)
            self._start += len(frames)
            if is_over and not frames:
                return
            if not frames or _is_last(frames[-1]):
                is_over = await self._is_over()

    async def _is_over(self) -> bool:
        try:
            return (await self._service.find(self._response_id)).response.is_over
        except NotFoundError:
            return True


def _is_last(frame: bytes) -> bool:
    """Whether an event is likely to end its stream; it is looked up then."""
    return frame.startswith((b"event: response.completed", b"event: response.incomplete", b"event: response.failed"))
