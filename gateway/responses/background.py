"""Makes responses that nobody need wait for. What is written of one, another gateway can go on from."""

import logging
import time
from http import HTTPStatus
from typing import Final

import msgspec

from gateway.completions.completion import Completion
from gateway.protocol.errors import as_request_error
from gateway.responses.events import ResponseEvents
from gateway.responses.resource import StoredResponse
from gateway.responses.service import ResponseService, events_of, fault_of, read_frames
from shared.archive import Claim
from shared.errors import BusError, RequestError

_logger = logging.getLogger(__name__)

_PASSING: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Faults that a later attempt may not meet."""


class BackgroundResponses:
    """The work on one response. Its text is a function of its request, so that a second worker makes the same again."""

    def __init__(self, service: ResponseService) -> None:
        self._service = service
        self._archive = service.archive

    async def make(self, claim: Claim) -> None:
        """Make a response, or as much of it as is possible now.

        Raises:
            ClaimLostError: it was cancelled or deleted, or is another's.
            BusError: Redis does not answer.
        """
        data = await self._archive.read(claim.record_id)
        if data is None:
            return
        stored = StoredResponse.decode(data)
        events = events_of(stored, await read_frames(self._archive, claim.record_id))
        writer = _Writer(self._service, claim, stored, events)
        try:
            await self._make(writer, claim)
        except BusError:
            raise
        except Exception as error:
            known = as_request_error(error)
            if known.status in _PASSING:
                _logger.info("response %s waits: %s", claim.record_id, known)
                return
            await writer.fail(known)

    async def _make(self, writer: "_Writer", claim: Claim) -> None:
        if not writer.events.num_events:
            await writer.write(writer.events.create())
        # A name of its own for every attempt: the pool takes a name only once.
        name = claim.record_id if claim.fence == 1 else f"{claim.record_id}-{claim.fence}"
        completion = await self._service.start(await self._service.revive(writer.stored, name))
        try:
            await self._follow(writer, completion)
        finally:
            completion.close("cancelled")

    async def _follow(self, writer: "_Writer", completion: Completion) -> None:
        await writer.write(writer.events.start(), is_changed=True)
        while True:
            for delta in await completion.next():
                frames = writer.events.push(self._service.piece(delta))
                if delta.finish_reason is not None:
                    await writer.end(
                        [*frames, *writer.events.end(delta.finish_reason, completion.usage, now_s=int(time.time()))]
                    )
                    return
                await writer.write(frames)


class _Writer:
    """Writes events behind a response, under a claim."""

    def __init__(self, service: ResponseService, claim: Claim, stored: StoredResponse, events: ResponseEvents) -> None:
        self._archive = service.archive
        self._claim = claim
        self.stored = stored
        self.events = events
        self._num_written = events.num_events

    async def write(self, frames: list[bytes], *, is_changed: bool = False) -> None:
        """Append events, and with `is_changed` the response as of the last of them."""
        if frames:
            await self._update(frames, self._document(self.stored.request) if is_changed else None, is_done=False)

    async def end(self, frames: list[bytes]) -> None:
        """Append the last events, after which there is nothing to do."""
        await self._update(frames, self._document(b""), is_done=True)

    async def fail(self, error: RequestError) -> None:
        """The response could not be made."""
        await self.end(self.events.fail(fault_of(error)))

    def _document(self, request: bytes) -> bytes:
        return msgspec.structs.replace(self.stored, response=self.events.response, request=request).encode()

    async def _update(self, frames: list[bytes], document: bytes | None, *, is_done: bool) -> None:
        await self._archive.update(
            self._claim, document=document, parts=frames, num_parts=self._num_written, is_done=is_done
        )
        self._num_written += len(frames)
