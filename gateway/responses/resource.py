"""A response as clients see it, and as it is kept."""

from typing import Any, Literal

import msgspec

from gateway.protocol.openai_responses import Usage
from gateway.responses.body import ResponseBody
from gateway.responses.items import Item, without_logprobs

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class InputTokensDetails(msgspec.Struct, frozen=True):
    """Where the input's tokens came from."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """What the output's tokens were for."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> "ResponseUsage":
        """The same, under the names of this API."""
        return cls(
            usage.prompt_tokens,
            InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
            usage.completion_tokens,
            OutputTokensDetails(usage.completion_tokens_details.reasoning_tokens),
            usage.total_tokens,
        )


class ResponseFault(msgspec.Struct, frozen=True):
    """Why a response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why a response is shorter than the model meant it."""

    reason: Literal["max_output_tokens"]


class ResponseResource(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's response object."""

    id: str
    created_at: int
    status: Status
    model: str
    object: str = "response"
    background: bool = False
    completed_at: int | None = None
    error: ResponseFault | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] = {}
    output: list[Item] = []
    parallel_tool_calls: bool = True
    previous_response_id: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    reasoning: dict[str, Any] | None = None
    safety_identifier: str | None = None
    service_tier: str = "default"
    store: bool = True
    temperature: float = 1.0
    text: dict[str, Any] = {}
    tool_choice: Any = "auto"
    tools: list[Any] = []
    top_logprobs: int = 0
    top_p: float = 1.0
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None = None

    @classmethod
    def begin(cls, body: ResponseBody, response_id: str, *, created_at: int) -> "ResponseResource":
        """A response of which nothing has been made yet."""
        return cls(
            id=response_id,
            created_at=created_at,
            status="queued" if body.background else "in_progress",
            model=body.model,
            background=body.background,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            max_tool_calls=body.max_tool_calls,
            metadata=body.metadata,
            parallel_tool_calls=body.parallel_tool_calls,
            previous_response_id=body.previous_response_id,
            prompt_cache_key=body.prompt_cache_key,
            prompt_cache_retention=body.prompt_cache_retention,
            reasoning=body.reasoning.model_dump(),
            safety_identifier=body.safety_identifier,
            store=body.store,
            temperature=body.temperature,
            text={"format": body.text.format.echo(), "verbosity": body.text.verbosity or "medium"},
            tool_choice=body.tool_choice if isinstance(body.tool_choice, str) else body.tool_choice.model_dump(),
            tools=[tool.model_dump() for tool in body.tools],
            top_logprobs=body.top_logprobs,
            top_p=body.top_p,
            truncation=body.truncation,
            user=body.user,
        )

    @property
    def is_over(self) -> bool:
        """Whether it will not change any more."""
        return self.status not in {"queued", "in_progress"}


class ResponseEvent(msgspec.Struct, frozen=True):
    """What every event of a response's stream has; OpenAI's reference tells what else there is, by type."""

    type: str
    sequence_number: int


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response as it is kept.

    Attributes:
        items: The conversation that it answers, those of earlier responses included.
        request: The body that asked for it, for whoever has to make it again; empty once it is over.
    """

    response: ResponseResource
    items: list[Item]
    request: bytes = b""

    def encode(self) -> bytes:
        """As bytes."""
        return _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "StoredResponse":
        """From bytes."""
        return _decoder.decode(data)

    @property
    def conversation(self) -> list[Item]:
        """What a response that continues this one begins with."""
        return [*self.items, *map(without_logprobs, self.response.output)]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(StoredResponse)
