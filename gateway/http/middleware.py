"""What surrounds every route: a name for each request, and an end for exceptions that nobody expected."""

import asyncio
import uuid
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.protocol.errors import error_response
from shared.errors import ServiceUnavailableError

_HEADER: Final = "x-request-id"
_ENDING: Final = ServiceUnavailableError("the gateway is shutting down; send the request again")


class RequestBoundary:
    """Names each request and keeps exceptions inside.

    `request.state.request_key` is new for every request. The response's `x-request-id` is the client's own if it sent
    one, else the key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = uuid.uuid4().hex
        scope.setdefault("state", {})["request_key"] = key
        request_id = Headers(scope=scope).get(_HEADER) or key
        has_started = False

        async def send_named(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(raw=message["headers"])[_HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_named)
        except asyncio.CancelledError:  # by the server, which ends and has waited long enough
            if not has_started:
                await error_response(_ENDING)(scope, receive, send_named)
        except Exception as error:
            if has_started:
                raise
            await error_response(error)(scope, receive, send_named)
