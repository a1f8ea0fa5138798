"""OpenAI's response bodies and the chunks of its streams, as values that encode to exactly what its clients expect.

Fields that OpenAI does not have are vLLM's.
"""

from collections.abc import Mapping, Sequence
from typing import Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Where the prompt's tokens came from."""

    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """What the output's tokens were for."""

    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of all prompts and choices of one API call."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the likeliest tokens of a place in a message."""

    token: str
    logprob: float
    bytes: Sequence[int]


class ContentLogprob(msgspec.Struct, frozen=True):
    """One token of a message."""

    token: str
    logprob: float
    bytes: Sequence[int]
    top_logprobs: Sequence[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a message, or of a part of it."""

    content: Sequence[ContentLogprob]
    refusal: None = None


class TextLogprobs(msgspec.Struct, frozen=True):
    """The tokens of a text, or of a part of it, in parallel lists. Those of a prompt's first token are null."""

    tokens: Sequence[str]
    token_logprobs: Sequence[float | None]
    top_logprobs: Sequence[Mapping[str, float] | None]
    text_offset: Sequence[int]


class PromptLogprob(msgspec.Struct, frozen=True):
    """One token that could stand at a place of a prompt."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = Sequence[Mapping[int, PromptLogprob] | None]
"""By place and by token id: the token that stands there, and the likeliest. Nothing comes before the first one."""


class FunctionCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is called, or more of it. Arguments are JSON text."""

    arguments: str
    name: str | UnsetType = UNSET


class MessageToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call of a message, or more of one, which then has an index."""

    function: FunctionCall
    index: int | UnsetType = UNSET
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET


class Message(msgspec.Struct, frozen=True):
    """An assistant's message. Reasoning has the names that vLLM gave it, the newer one first."""

    role: str
    content: str | None
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: Sequence[MessageToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of `chat.completion`."""

    index: int
    message: Message
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None
    stop_reason: str | int | None = None
    token_ids: Sequence[int] | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """More of an assistant's message."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: Sequence[MessageToolCall] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of `chat.completion.chunk`."""

    index: int
    delta: Delta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogprobs | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of `text_completion`, whole or in part."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: TextLogprobs | None = None
    stop_reason: str | int | UnsetType | None = UNSET
    token_ids: Sequence[int] | UnsetType = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


AnyChoice = TypeVar("AnyChoice", bound=ChatChoice | ChatChunkChoice | TextChoice)


class CompletionResponse(msgspec.Struct, Generic[AnyChoice], frozen=True, kw_only=True):
    """What both endpoints answer, whole or in part."""

    id: str
    object: str
    created: int
    model: str
    choices: Sequence[AnyChoice]
    system_fingerprint: str
    service_tier: str | UnsetType = UNSET
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: Sequence[int] | UnsetType = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


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
