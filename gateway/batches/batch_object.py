"""A batch as clients see it, and its body."""

import time
from typing import Any, Final, Literal, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from gateway.files.shelf import MAX_TTL_S, MIN_TTL_S
from gateway.protocol.body_parsing import read_fields, validated
from gateway.storage.stored_objects import Metadata, new_id

COMPLETION_WINDOW_S: Final = 24 * 3600

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


class OutputExpiresAfter(BaseModel):
    """How long the files with the answers are kept."""

    model_config = ConfigDict(strict=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=MIN_TTL_S, le=MAX_TTL_S)


class BatchBody(BaseModel):
    """`POST /v1/batches`."""

    model_config = ConfigDict(strict=True, extra="ignore")

    input_file_id: str = Field(min_length=1, max_length=256)
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: OutputExpiresAfter | None = None

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body. A field that is null counts as absent.

        Raises:
            InvalidRequestError: no JSON object, or a value that is not served.
        """
        return validated(cls, read_fields(body))


class LineFault(msgspec.Struct, frozen=True):
    """What is wrong with a line of the input."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Faults(msgspec.Struct, frozen=True):
    """Why a batch was not begun."""

    data: list[LineFault]
    object: str = "list"


class RequestCounts(msgspec.Struct, frozen=True):
    """How far a batch is."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class InputDetails(msgspec.Struct, frozen=True):
    """Where the inputs' tokens came from."""

    cached_tokens: int = 0


class OutputDetails(msgspec.Struct, frozen=True):
    """What the outputs' tokens were for."""

    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True):
    """Tokens of all answered lines."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: InputDetails = InputDetails()
    output_tokens_details: OutputDetails = OutputDetails()

    def plus(self, usage: dict[str, Any]) -> "BatchUsage":
        """With those of one more answer, whichever endpoint's words it uses."""
        num_input = usage.get("prompt_tokens", usage.get("input_tokens", 0))
        num_output = usage.get("completion_tokens", usage.get("output_tokens", 0))
        num_cached = _detail(usage, ("prompt_tokens_details", "input_tokens_details"), "cached_tokens")
        num_reasoning = _detail(usage, ("completion_tokens_details", "output_tokens_details"), "reasoning_tokens")
        return BatchUsage(
            self.input_tokens + num_input,
            self.output_tokens + num_output,
            self.total_tokens + num_input + num_output,
            InputDetails(self.input_tokens_details.cached_tokens + num_cached),
            OutputDetails(self.output_tokens_details.reasoning_tokens + num_reasoning),
        )


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's batch object."""

    id: str
    endpoint: str
    input_file_id: str
    status: Status
    created_at: int
    expires_at: int
    object: str = "batch"
    completion_window: str = "24h"
    errors: Faults | None = None
    metadata: dict[str, str] | None = None
    model: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage = BatchUsage()
    output_expires_after: dict[str, Any] | None = None

    @classmethod
    def begin(cls, body: BatchBody) -> "BatchObject":
        """A batch of which nothing has been done yet."""
        now_s = int(time.time())
        expiry = body.output_expires_after
        return cls(
            id=new_id("batch_"),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            status="validating",
            created_at=now_s,
            expires_at=now_s + COMPLETION_WINDOW_S,
            metadata=body.metadata,
            output_expires_after=expiry.model_dump() if expiry else None,
        )

    @property
    def output_ttl_s(self) -> int:
        """How long the files with the answers are kept."""
        return MAX_TTL_S if self.output_expires_after is None else int(self.output_expires_after["seconds"])

    @property
    def is_over(self) -> bool:
        """Whether it will not change any more."""
        return self.status in {"completed", "failed", "expired", "cancelled"}

    def turned(self, status: Status, **fields: Any) -> "BatchObject":  # noqa: ANN401 - fields of its own
        """The batch in its next status, from now on."""
        changes = {"status": status, f"{status}_at": int(time.time()), **fields}
        return msgspec.structs.replace(self, **changes)

    def encode(self) -> bytes:
        """As bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "BatchObject":
        """From bytes."""
        return _decoder.decode(data)


_decoder = msgspec.msgpack.Decoder(BatchObject)


def _detail(usage: dict[str, Any], groups: tuple[str, str], name: str) -> int:
    return sum(int((usage.get(group) or {}).get(name) or 0) for group in groups)
