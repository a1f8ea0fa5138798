"""OpenAI's response bodies and the chunks of its streams, as values that encode to exactly what its clients expect."""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec
from msgspec import UNSET, UnsetType

FinishReason = Literal["stop", "length"]


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens of all prompts and choices of one API call."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Output(msgspec.Struct, frozen=True):
    """One finished choice."""

    text: str
    finish_reason: FinishReason


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str


class _ChatChoice(msgspec.Struct, frozen=True):
    index: int
    message: _Message
    finish_reason: FinishReason
    logprobs: None = None


class _Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class _ChatChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: _Delta
    finish_reason: FinishReason | None = None
    logprobs: None = None


class _TextChoice(msgspec.Struct, frozen=True):
    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: None = None


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str
    created: int
    model: str
    choices: Sequence[_ChatChoice | _ChatChunkChoice | _TextChoice]
    usage: Usage | UnsetType | None = UNSET


class Shape(Protocol):
    """How one endpoint writes its answers: whole, or as chunks."""

    @property
    def is_message(self) -> bool:
        """Whether each output is a message of its own; else it continues its prompt."""

    def response(self, outputs: Sequence[Output], usage: Usage) -> bytes:
        """The whole answer."""

    def opening_chunk(self, choice: int) -> bytes | None:
        """What a choice begins with, before any text."""

    def text_chunk(self, choice: int, text: str) -> bytes:
        """More text of a choice."""

    def closing_chunk(self, choice: int, finish_reason: FinishReason) -> bytes:
        """The end of a choice."""

    def usage_chunk(self, usage: Usage) -> bytes:
        """The end of the stream, if usage was asked for."""


class _ShapeBase:
    def __init__(self, completion_id: str, created: int, model: str, *, include_usage: bool) -> None:
        self._id = completion_id
        self._created = created
        self._model = model
        self._chunk_usage: UnsetType | None = None if include_usage else UNSET

    def _encode(
        self,
        kind: str,
        choices: Sequence[_ChatChoice | _ChatChunkChoice | _TextChoice],
        usage: Usage | UnsetType | None,
    ) -> bytes:
        body = _Body(id=self._id, object=kind, created=self._created, model=self._model, choices=choices, usage=usage)
        return msgspec.json.encode(body)


class ChatShape(_ShapeBase):
    """`/v1/chat/completions`."""

    is_message = True
    _CHUNK = "chat.completion.chunk"

    def response(self, outputs: Sequence[Output], usage: Usage) -> bytes:
        """The whole answer."""
        choices = [
            _ChatChoice(i, _Message("assistant", output.text), output.finish_reason) for i, output in enumerate(outputs)
        ]
        return self._encode("chat.completion", choices, usage)

    def opening_chunk(self, choice: int) -> bytes | None:
        """The assistant's role."""
        return self._chunk(_ChatChunkChoice(choice, _Delta(role="assistant", content="")))

    def text_chunk(self, choice: int, text: str) -> bytes:
        """More text of a choice."""
        return self._chunk(_ChatChunkChoice(choice, _Delta(content=text)))

    def closing_chunk(self, choice: int, finish_reason: FinishReason) -> bytes:
        """The end of a choice."""
        return self._chunk(_ChatChunkChoice(choice, _Delta(), finish_reason))

    def usage_chunk(self, usage: Usage) -> bytes:
        """The end of the stream, if usage was asked for."""
        return self._encode(self._CHUNK, (), usage)

    def _chunk(self, choice: _ChatChunkChoice) -> bytes:
        return self._encode(self._CHUNK, (choice,), self._chunk_usage)


class TextShape(_ShapeBase):
    """`/v1/completions`."""

    is_message = False
    _KIND = "text_completion"

    def response(self, outputs: Sequence[Output], usage: Usage) -> bytes:
        """The whole answer."""
        choices = [_TextChoice(i, output.text, output.finish_reason) for i, output in enumerate(outputs)]
        return self._encode(self._KIND, choices, usage)

    def opening_chunk(self, choice: int) -> bytes | None:
        """Nothing: text needs no opening."""
        return None

    def text_chunk(self, choice: int, text: str) -> bytes:
        """More text of a choice."""
        return self._chunk(_TextChoice(choice, text))

    def closing_chunk(self, choice: int, finish_reason: FinishReason) -> bytes:
        """The end of a choice."""
        return self._chunk(_TextChoice(choice, "", finish_reason))

    def usage_chunk(self, usage: Usage) -> bytes:
        """The end of the stream, if usage was asked for."""
        return self._encode(self._KIND, (), usage)

    def _chunk(self, choice: _TextChoice) -> bytes:
        return self._encode(self._KIND, (choice,), self._chunk_usage)


class ModelCard(msgspec.Struct, frozen=True):
    """One entry of `/v1/models`."""

    id: str
    created: int
    max_model_len: int | None
    object: str = "model"
    owned_by: str = "pagestream"


class ModelList(msgspec.Struct, frozen=True):
    """`/v1/models`."""

    data: Sequence[ModelCard]
    object: str = "list"


class ErrorDetail(msgspec.Struct, frozen=True):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """What every failed call answers, and what ends a failed stream."""

    error: ErrorDetail
