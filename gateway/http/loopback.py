"""Calls of a gateway to its own routes, without a socket: a batch's line is answered as any other request is."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from starlette.types import ASGIApp, Message

from gateway.access.keyring import ANYBODY, ApiKey


class Answer(NamedTuple):
    """A response in full."""

    status: int
    request_id: str
    body: bytes


class Loopback:
    """Posts JSON to an application.

    Args:
        app: Takes the calls.
        state: What the application's lifespan gives to every request.
        api_key: With which we call.
    """

    def __init__(self, app: ASGIApp, state: Callable[[], Mapping[str, object]], api_key: ApiKey = ANYBODY) -> None:
        self._app = app
        self._api_key = api_key
        self._state = state
        self._headers = [(b"content-type", b"application/json")]

    async def post(self, path: str, body: bytes) -> Answer:
        """Call a route and wait for all of its answer. Cancelling is as a client that hangs up."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [*self._headers, (b"content-length", str(len(body)).encode())],
            "client": None,
            "server": None,
            "state": {**self._state(), "api_key": self._api_key},
        }
        to_come: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            if to_come:
                return to_come.pop()
            await asyncio.get_running_loop().create_future()  # the client stays
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # the application has answered that with an error of its own
            raise asyncio.CancelledError
        headers = dict(sent[0]["headers"])
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], headers.get(b"x-request-id", b"").decode(), body)
