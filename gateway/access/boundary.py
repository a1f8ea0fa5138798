"""What every call passes before its route: its key, its place, and the time that its body may take."""

import asyncio
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.admission import Admission, Load
from gateway.access.keyring import Keyring
from gateway.protocol.errors import error_response
from shared.errors import RequestError, RequestTimeoutError

BODY_TIMEOUT_S: Final = 30.0
"""For a piece of a body to come."""

_GUARDED: Final = ("/v1/", "/tokenize", "/detokenize")


class AccessBoundary:
    """Lets in who has a key and finds room. Puts the key into `request.state.api_key`.

    A call that comes from this process itself has it there already, and is let in.

    Args:
        app: What is guarded.
        keyring: Of this gateway.
        admission: The same.
        max_body_bytes: What a body is taken for whose length is not announced.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, admission: Admission, *, max_body_bytes: int) -> None:
        self._app = app
        self._keyring = keyring
        self._admission = admission
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
        state = scope.setdefault("state", {})
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED) or "api_key" in state:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        load = self._load(scope["method"], headers.get("content-length"))
        try:
            key = state["api_key"] = self._keyring.owner_of(headers.get("authorization", ""))
            self._admission.enter(key, load)
        except RequestError as error:
            await error_response(error)(scope, receive, send)
            return
        is_read = False

        async def receive_in_time() -> Message:
            nonlocal is_read
            if is_read:
                return await receive()
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    message = await receive()
            except TimeoutError as error:
                raise RequestTimeoutError(
                    f"nothing of the body came for {BODY_TIMEOUT_S:.0f} s", code="request_timeout"
                ) from error
            is_read = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, receive_in_time, send)
        finally:
            self._admission.leave(key, load)

    def _load(self, method: str, length: str | None) -> Load:
        if method != "POST":
            return Load(0)
        announced = int(length) if length is not None and length.isdecimal() else self._max_body_bytes
        return Load(min(announced, self._max_body_bytes))
