"""From the body of a call to the response that holds or streams its answer; and, later, to that answer again."""

import functools
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Final, NamedTuple

from fastapi import Request, Response

from gateway.access.deadlines import deadline_of_header, with_deadline
from gateway.access.keyring import ApiKey
from gateway.completions.completion import Completion, CompletionStarter
from gateway.completions.submission import Submission
from gateway.completions.submission_builder import SubmissionBuilder
from gateway.http.connection import EventStreamResponse, WholeResponse
from gateway.http.sse import EventWriter
from gateway.monitoring.pool_monitor import PoolMonitor
from gateway.protocol.openai_requests import ChatCompletionBody, CompletionBody, GenerationBody
from gateway.resumption.event_id import EventId, EventNumbers
from gateway.resumption.keeper import StreamKeeper
from gateway.resumption.record import StreamRecord, keyed_name
from gateway.shapes.chat_shape import ChatShape
from gateway.shapes.fingerprint import fingerprint
from gateway.shapes.shape import Envelope, Shape
from gateway.shapes.text_shape import TextShape
from gateway.shapes.token_names import TokenNames
from shared.errors import InvalidRequestError, KeyReusedError, RecordExistsError

VERSION: Final = version("pagestream")
_SERVICE_TIER: Final = "default"
"""There is no other: whoever asks for one is told."""

_MAX_KEY_CHARACTERS: Final = 255
_ATTEMPT_CHARACTERS: Final = 8


class Endpoint(NamedTuple):
    """One way to ask for text.

    Attributes:
        name: In records.
        prefix: Of the ids of its answers.
    """

    name: str
    prefix: str
    body: type[ChatCompletionBody | CompletionBody]
    shape: type[ChatShape | TextShape]

    async def submission(
        self, builder: SubmissionBuilder, body: ChatCompletionBody | CompletionBody, completion_id: str
    ) -> Submission:
        """What the pool is asked.

        Raises:
            InvalidRequestError: the body does not fit the model.
        """
        if isinstance(body, ChatCompletionBody):
            return await builder.chat(body, completion_id)
        return await builder.text(body, completion_id)


CHAT: Final = Endpoint("chat", "chatcmpl-", ChatCompletionBody, ChatShape)
TEXT: Final = Endpoint("text", "cmpl-", CompletionBody, TextShape)
_ENDPOINTS: Final = {endpoint.name: endpoint for endpoint in (CHAT, TEXT)}


class Caller(NamedTuple):
    """Who calls, and how.

    Attributes:
        key: Whose streams these are, and whose prefixes.
        request_key: New for every call.
        idempotency_key: The same for every attempt at the same call; None if that is not wanted.
        last_event_id: The last event that the client has of a stream that it wants to go on with.
        reads_ids: Whether events are to have ids: it says that it accepts an event stream, or has the id of an event.
            OpenAI's clients do neither, and some of them take every line of an event for its data.
        deadline_ms: Milliseconds that the client waits, if it says so by a header.
        arrived_ms: Unix time of the call.
    """

    key: ApiKey
    request_key: str
    idempotency_key: str | None = None
    last_event_id: str | None = None
    reads_ids: bool = False
    deadline_ms: int | None = None
    arrived_ms: int = 0

    @classmethod
    def of(cls, request: Request, api_key: ApiKey) -> "Caller":
        """Read the headers.

        Raises:
            InvalidRequestError: one of them is wrong.
        """
        key = request.headers.get("idempotency-key")
        if key is not None and not (0 < len(key) <= _MAX_KEY_CHARACTERS and key.isprintable()):
            raise InvalidRequestError(
                f"'Idempotency-Key' has {len(key)} characters; send 1 to {_MAX_KEY_CHARACTERS} printable ones",
                param="Idempotency-Key",
            )
        last_event_id = request.headers.get("last-event-id")
        accepted = ",".join(request.headers.getlist("accept")).lower()
        return cls(
            api_key,
            request.state.request_key,
            idempotency_key=key,
            last_event_id=last_event_id,
            reads_ids=last_event_id is not None or EventStreamResponse.media_type in accepted,
            deadline_ms=deadline_of_header(request.headers),
            arrived_ms=time.time_ns() // 1_000_000,
        )


class Answering:
    """Answers calls, and goes on with answers that were begun here or elsewhere."""

    def __init__(
        self,
        submissions: SubmissionBuilder,
        completions: CompletionStarter,
        monitor: PoolMonitor,
        check_model: Callable[[str], None],
    ) -> None:
        self._submissions = submissions
        self._completions = completions
        self._monitor = monitor
        self._check_model = check_model

    @property
    def _keeper(self) -> StreamKeeper:
        return self._completions.keeper

    async def answer(self, endpoint: Endpoint, data: bytes, caller: Caller) -> Response:
        """Answer a call.

        Args:
            endpoint: That it came to.
            data: Its body.
            caller: Whose it is.

        Raises:
            InvalidRequestError: the body is wrong.
            KeyReusedError: the idempotency key came with another call before.
            DeadlineUnreachableError: it could not be answered in time.
            QueueFullError: the pool is full.
            BusUnavailableError: Redis does not answer.
        """
        if caller.last_event_id is not None:
            event_id = EventId.parse(caller.last_event_id)
            return await self.resume(event_id.stream_id, event_id.seen, caller)
        name = None
        if caller.idempotency_key is not None:
            name = keyed_name(caller.key.name, endpoint.name, caller.idempotency_key)
            if earlier := await self._keeper.find(name):
                return await self._again(earlier, endpoint, data, caller)
        body = endpoint.body.parse(data)
        self._check_model(body.model)
        await self._completions.check_room(self._monitor.status)
        body.cache_salt = caller.key.salt(body.cache_salt)
        key = caller.request_key if name is None else name + caller.request_key[:_ATTEMPT_CHARACTERS]
        submission = await endpoint.submission(self._submissions, body, f"{endpoint.prefix}{key}")
        submission = self._on_behalf(submission, body, caller)
        record = StreamRecord(
            stream_id=submission.completion_id,
            endpoint=endpoint.name,
            body=data,
            owner=caller.key.name,
            is_keyed=name is not None,
            created=int(time.time()),
            system_fingerprint=fingerprint(VERSION, self._monitor.status),
        )
        try:
            completion = await self._completions.start(submission, record if body.stream or name else None)
        except RecordExistsError:
            if name is not None and (earlier := await self._keeper.find(name)):
                return await self._again(earlier, endpoint, data, caller)
            raise
        return self._response(endpoint, body, record, completion, caller)

    async def resume(
        self, stream_id: str, seen: tuple[int, ...], caller: Caller, *, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Go on with a stream after the events that its client has.

        Args:
            stream_id: What its client sees as its `id`.
            seen: By choice, events that the client has.
            caller: Who asks.
            headers: Of the response.

        Raises:
            NotFoundError: it was never there, is forgotten, or is somebody else's.
            BusUnavailableError: Redis does not answer.
        """
        kept = await self._keeper.claim(stream_id, caller.key.name)
        record = kept.record
        endpoint = _ENDPOINTS[record.endpoint]
        body = endpoint.body.parse(record.body)
        submission = await endpoint.submission(self._submissions, body, record.stream_id)
        completion = await self._completions.resume(submission, kept)
        return self._response(endpoint, body, record, completion, caller, seen=seen, headers=headers)

    def _on_behalf(self, submission: Submission, body: GenerationBody, caller: Caller) -> Submission:
        """The call with its owner and its deadline: the body's and the header's, whichever comes first."""
        allowed_ms = min((ms for ms in (body.deadline_ms, caller.deadline_ms) if ms is not None), default=None)
        owned = submission._replace(api_key_id=caller.key.name)
        return with_deadline(owned, allowed_ms, arrived_ms=caller.arrived_ms, status=self._monitor.status)

    async def _again(self, earlier: StreamRecord, endpoint: Endpoint, data: bytes, caller: Caller) -> Response:
        """The answer to a call that is made again."""
        if (earlier.endpoint, earlier.body) != (endpoint.name, data):
            raise KeyReusedError(
                f"'Idempotency-Key' {caller.idempotency_key!r} came with another request before; take a new key",
                param="Idempotency-Key",
                code="idempotency_key_reused",
            )
        return await self.resume(earlier.stream_id, (), caller, headers={"idempotent-replayed": "true"})

    def _response(
        self,
        endpoint: Endpoint,
        body: ChatCompletionBody | CompletionBody,
        record: StreamRecord,
        completion: Completion,
        caller: Caller,
        *,
        seen: tuple[int, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        envelope = Envelope(
            record.stream_id,
            record.created,
            body.model,
            record.system_fingerprint,
            body.service_tier and _SERVICE_TIER,
        )
        names = TokenNames(self._completions.vocabulary, as_ids=body.return_tokens_as_token_ids)
        shape = endpoint.shape(envelope, names, body.detail)
        if not body.stream:
            return WholeResponse(completion, functools.partial(_render, shape, headers or {}))
        numbers = None
        if completion.is_kept and (caller.reads_ids or seen):
            numbers = EventNumbers(record.stream_id, completion.num_choices, seen, tells_ids=caller.reads_ids)
        return EventStreamResponse(completion, EventWriter(shape, completion.num_choices, numbers), headers)


async def _render(shape: Shape, headers: Mapping[str, str], completion: Completion) -> Response:
    outputs = await completion.collect()
    data = shape.response(outputs, completion.prompts, completion.usage)
    return Response(data, headers=dict(headers), media_type="application/json")
