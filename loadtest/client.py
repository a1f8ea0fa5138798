"""OpenAI's API as it is measured: one streamed answer per request, and what was seen of it."""

import os
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from loadtest.answer_stream import AnswerStream
from loadtest.conversation import Message
from loadtest.http_connection import HttpClient, HttpResponse
from loadtest.record import RequestRecord
from loadtest.settings import Target
from shared.errors import ConfigurationError

_OK: Final = HTTPStatus.OK
_MAX_ERROR_LENGTH: Final = 300


class _ModelCard(msgspec.Struct, frozen=True):
    id: str


class _ModelList(msgspec.Struct, frozen=True):
    data: tuple[_ModelCard, ...]


class OpenAIClient:
    """Sends requests to one endpoint of one server."""

    def __init__(self, target: Target) -> None:
        self._http = HttpClient(target.root_url, insecure=target.insecure)
        self._target = target
        api_key = os.environ.get("OPENAI_API_KEY")
        authorization = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._headers = {"Content-Type": "application/json", **authorization, **target.header}

    async def first_model(self) -> str:
        """The name of a model that the server has.

        Raises:
            ConfigurationError: it does not say.
        """
        remedy = f"start it at {self._target.root_url}, or give its address by --base-url and the model by --model"
        try:
            response = await self._http.request("GET", "/v1/models", headers=self._headers)
            if response.status != _OK:
                raise ConfigurationError(f"the server does not name its models: HTTP {response.status}; {remedy}")
            cards = msgspec.json.decode(response.body, type=_ModelList).data
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigurationError(f"the server does not name its models: {error}; {remedy}") from error
        if not cards:
            raise ConfigurationError(f"the server has no model; {remedy}")
        return cards[0].id

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        model: str,
        max_tokens: int,
        num_prompt_tokens: int,
        sampling: Mapping[str, object],
        due_s: float,
    ) -> RequestRecord:
        """Send a request and take its answer to the end. What goes wrong is part of the record.

        Args:
            messages: The conversation up to here.
            model: As the server calls it.
            max_tokens: Of the answer.
            num_prompt_tokens: What we count, should the server not say.
            sampling: More fields of the body.
            due_s: When it should have been sent.
        """
        body = self._body(messages, model, max_tokens) | dict(sampling)
        answer = AnswerStream()
        encoded = msgspec.json.encode(body)
        started_s = time.perf_counter()
        try:
            response = await self._http.request(
                "POST",
                self._target.path,
                headers=self._headers,
                body=encoded,
                on_body=lambda data: answer.push(data, time.perf_counter()),
            )
            error = _fault(response, answer)
        except (OSError, msgspec.DecodeError) as fault:
            error = f"{type(fault).__name__}: {fault}"
        return RequestRecord(
            due_s=due_s,
            started_s=started_s,
            chunk_times_s=tuple(answer.chunk_times_s),
            num_prompt_tokens=num_prompt_tokens if answer.num_prompt_tokens is None else answer.num_prompt_tokens,
            num_output_tokens=answer.num_output_tokens or len(answer.chunk_times_s),
            text=answer.text,
            error=error,
        )

    def close(self) -> None:
        """Let go of all connections."""
        self._http.close()

    def _body(self, messages: Sequence[Message], model: str, max_tokens: int) -> dict[str, object]:
        stream: dict[str, object] = {"model": model, "stream": True, "stream_options": {"include_usage": True}}
        if self._target.is_chat:
            return stream | {"messages": list(messages), "max_completion_tokens": max_tokens}
        return stream | {"prompt": "".join(message["content"] for message in messages), "max_tokens": max_tokens}


def _fault(response: HttpResponse, answer: AnswerStream) -> str | None:
    if response.status != _OK:
        return f"HTTP {response.status}: {response.body.decode(errors='replace')[:_MAX_ERROR_LENGTH]}"
    if answer.error is not None:
        return f"the stream ended with an error: {answer.error[:_MAX_ERROR_LENGTH]}"
    if not answer.chunk_times_s:
        return "the stream held no token"
    if not answer.is_finished:
        return "the stream ended before its answer did"
    return None
