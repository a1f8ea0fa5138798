"""Responses by their names: made ready, kept, found, cancelled, deleted. Any gateway answers for any of them."""

import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from gateway.completions.completion import Completion, CompletionStarter
from gateway.completions.submission import Submission
from gateway.completions.submission_builder import SubmissionBuilder
from gateway.responses.body import ResponseBody, named_as_here
from gateway.responses.conversation import chat_messages
from gateway.responses.events import Piece, ResponseEvents
from gateway.responses.items import Item
from gateway.responses.resource import ResponseFault, ResponseResource, StoredResponse
from gateway.shapes.content_logprobs import content_logprob
from gateway.shapes.shape import Output
from gateway.shapes.token_names import TokenNames
from gateway.storage.stored_objects import new_id
from gateway.text.choice_text import TextDelta
from shared.archive import Archive, Claim
from shared.errors import ClaimLostError, InvalidRequestError, NotFoundError, QueueFullError, RequestError

TTL_S: Final = 30 * 24 * 3600
"""How long responses are kept at most: OpenAI's thirty days."""

MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
"""Of a response with its whole conversation, above which it is not kept."""


class Draft(NamedTuple):
    """A response that is about to be made.

    Attributes:
        body: What was asked for.
        stored: The response as it begins, and its conversation.
        submission: What the pool is asked.
    """

    body: ResponseBody
    stored: StoredResponse
    submission: Submission


class ResponseService:
    """Owns the archive of responses.

    Invariant: a response in the archive that is not over is a job, and whoever holds its claim is making it.
    """

    def __init__(
        self, archive: Archive, submissions: SubmissionBuilder, completions: CompletionStarter, *, max_jobs: int
    ) -> None:
        """Keep the collaborators.

        Args:
            archive: Of responses.
            submissions: Makes the pool's requests.
            completions: Sends them.
            max_jobs: Background responses that may wait or run.
        """
        self.archive = archive
        self._submissions = submissions
        self._completions = completions
        self._max_jobs = max_jobs
        self._names = TokenNames(completions.vocabulary)

    async def draft(self, body: ResponseBody) -> Draft:
        """Make a response ready: find what it continues, render it, tokenize it.

        Raises:
            InvalidRequestError: something is wrong with the body, or it does not fit the context.
        """
        items = await self._items(body)
        response_id = new_id("resp_")
        items, submission = await self._submission(body, items, response_id)
        response = ResponseResource.begin(body, response_id, created_at=int(time.time()))
        return Draft(body, StoredResponse(response=response, items=items), submission)

    async def num_input_tokens(self, body: ResponseBody) -> int:
        """Tokens of the prompt that a response would answer, however many they are.

        Raises:
            InvalidRequestError: something is wrong with the body.
        """
        chat = body.chat(chat_messages(body.instructions, await self._items(body)))
        prompts = self._submissions.prompts
        with named_as_here():
            return len(await prompts.text(prompts.render(chat), add_special_tokens=chat.add_special_tokens))

    async def start(self, submission: Submission) -> Completion:
        """Send it to the pool; whoever calls closes it.

        Raises:
            QueueFullError: the pool is full.
            BusUnavailableError: Redis does not answer.
        """
        return await self._completions.start(submission)

    def piece(self, output: TextDelta | Output) -> Piece:
        """What a choice says, as it is told here."""
        logprobs = [content_logprob(self._names, token) for token in output.scored]
        return Piece(output.text, output.reasoning, output.calls, logprobs)

    async def enqueue(self, draft: Draft, request: bytes) -> tuple[Claim, StoredResponse]:
        """Keep a response that is to be made in the background, under our claim.

        Raises:
            QueueFullError: too many wait already.
            StorageFullError: it cannot be kept.
        """
        seed = draft.submission.prompts[0].sampling.seed
        # So that another gateway would make the same text, and share prefixes with the same requests.
        salt = draft.submission.cache_salt
        fields = msgspec.json.decode(request) | {"seed": seed, "cache_salt": salt}
        stored = msgspec.structs.replace(draft.stored, request=msgspec.json.encode(fields))
        response_id = stored.response.id
        claim = await self.archive.create(response_id, _encoded(stored), ttl_s=TTL_S, max_jobs=self._max_jobs)
        return claim, stored

    async def revive(self, stored: StoredResponse, name: str) -> Submission:
        """What the pool is asked for a response that was made ready before.

        Args:
            stored: With its request.
            name: Of this attempt; no other has had it.
        """
        body = ResponseBody.parse(stored.request)
        _, submission = await self._submission(body, stored.items, name)
        return submission

    async def keep(self, stored: StoredResponse) -> None:
        """Keep a response that is over, unless its client asked not to.

        Raises:
            StorageFullError: it does not fit.
        """
        if stored.response.store:
            await self.archive.create(stored.response.id, _encoded(stored), ttl_s=TTL_S)

    async def find(self, response_id: str) -> StoredResponse:
        """A response that is kept.

        Raises:
            NotFoundError: there is none of this id.
        """
        data = await self.archive.read(response_id)
        if data is None:
            raise _not_found(response_id)
        return StoredResponse.decode(data)

    async def cancel(self, response_id: str) -> ResponseResource:
        """End a background response. One that is over stays as it is.

        Raises:
            NotFoundError: there is none of this id.
            InvalidRequestError: it is none that is made in the background.
        """
        while True:
            stored = await self.find(response_id)
            if not stored.response.background:
                raise InvalidRequestError("Only responses created with 'background' can be cancelled")
            if stored.response.is_over:
                return stored.response
            claim = await self.archive.seize(response_id)
            if claim is None:
                raise _not_found(response_id)
            stored = await self.find(response_id)  # as it is now that nobody else can change it
            if stored.response.is_over:
                return stored.response
            cancelled = msgspec.structs.replace(stored.response, status="cancelled")
            try:
                document = msgspec.structs.replace(stored, response=cancelled, request=b"").encode()
                await self.archive.update(claim, document=document, is_done=True)
            except ClaimLostError:
                continue
            return cancelled

    async def delete(self, response_id: str) -> None:
        """Forget a response, and end it if it is still being made.

        Raises:
            NotFoundError: there is none of this id.
        """
        if not await self.archive.delete(response_id):
            raise _not_found(response_id)

    async def _items(self, body: ResponseBody) -> list[Item]:
        """The conversation: what the body brings, after what it continues."""
        items = [item.as_item() for item in body.input]
        if body.previous_response_id is None:
            return items
        return [*await self._earlier(body.previous_response_id), *items]

    async def _earlier(self, response_id: str) -> list[Item]:
        data = await self.archive.read(response_id)
        if data is None:
            raise InvalidRequestError(
                f"Previous response with id {response_id!r} not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        earlier = StoredResponse.decode(data)
        if earlier.response.status not in {"completed", "incomplete"}:
            raise InvalidRequestError(
                f"'previous_response_id': {response_id!r} is {earlier.response.status}, and so cannot be continued",
                param="previous_response_id",
            )
        return earlier.conversation

    async def _submission(self, body: ResponseBody, items: list[Item], name: str) -> tuple[list[Item], Submission]:
        """The request, and the items that are in it: all of them, or with truncation the last ones that fit."""

        async def submission_from(start: int) -> Submission:
            chat = body.chat(chat_messages(body.instructions, items[start:]))
            with named_as_here():
                return await self._submissions.chat(chat, name)

        try:
            return items, await submission_from(0)
        except InvalidRequestError as error:
            if error.code != "context_length_exceeded" or body.truncation != "auto":
                raise
        dropped, fitting = 0, len(items) - 1
        found = await submission_from(fitting)
        while fitting - dropped > 1:
            middle = (dropped + fitting) // 2
            try:
                found = await submission_from(middle)
                fitting = middle
            except InvalidRequestError:
                dropped = middle
        return items[fitting:], found


def fault_of(error: RequestError) -> ResponseFault:
    """What a failed response says of an error."""
    if isinstance(error, QueueFullError):
        return ResponseFault("rate_limit_exceeded", error.message)
    is_ours = error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return ResponseFault("server_error" if is_ours else "invalid_prompt", error.message)


async def read_frames(archive: Archive, response_id: str) -> Sequence[bytes]:
    """All events of a response that have been written."""
    frames: list[bytes] = []
    while found := await archive.parts(response_id, len(frames)):
        frames += found
    return frames


def events_of(stored: StoredResponse, frames: Sequence[bytes]) -> ResponseEvents:
    """The events of a response, to go on after those that there are."""
    return ResponseEvents.resume(stored.response, frames) if frames else ResponseEvents(stored.response)


def _encoded(stored: StoredResponse) -> bytes:
    data = stored.encode()
    if len(data) > MAX_RESPONSE_BYTES:
        raise InvalidRequestError(
            f"the conversation has {len(data)} bytes, more than the {MAX_RESPONSE_BYTES} that are kept; "
            "send 'store': false, or a shorter 'input'",
            param="input",
        )
    return data


def _not_found(response_id: str) -> NotFoundError:
    return NotFoundError(f"Response with id {response_id!r} not found.")
