"""The lines of batch files, in and out, as OpenAI's batch API has them. Pure."""

from typing import Annotated, Any, Final, Literal

import msgspec

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""What a line may ask for."""

_NOT_EMPTY = Annotated[str, msgspec.Meta(min_length=1)]


class BatchRequest(msgspec.Struct, frozen=True):
    """One line of the input.

    Attributes:
        custom_id: Names the line; the output has it beside the answer.
        url: One of `ENDPOINTS`.
        body: As it would be sent to a server.
    """

    custom_id: _NOT_EMPTY
    method: Literal["POST"]
    url: str
    body: dict[str, Any]


class LineError(msgspec.Struct, frozen=True):
    """Why a line has no answer at all."""

    code: str
    message: str


class Answer(msgspec.Struct, frozen=True):
    """What a server would have answered, errors included.

    Attributes:
        body: JSON as it came.
    """

    status_code: int
    request_id: str
    body: msgspec.Raw

    @property
    def is_success(self) -> bool:
        """Whether the request was answered as it should be."""
        return 200 <= self.status_code < 300  # noqa: PLR2004


class BatchResult(msgspec.Struct, frozen=True):
    """One line of the output. Either `response` or `error` is null."""

    id: str
    custom_id: str | None
    response: Answer | None
    error: LineError | None

    def encode(self) -> bytes:
        """The line, its end included."""
        return msgspec.json.encode(self) + b"\n"


class BatchReader:
    """Reads line after line, and remembers which names were given."""

    def __init__(self) -> None:
        self._num_lines = 0
        self._seen: set[str] = set()

    def read(self, line: bytes) -> BatchRequest | BatchResult:
        """The request of the next line that is not empty, or the result that says what is wrong with it."""
        self._num_lines += 1
        try:
            request = msgspec.json.decode(line, type=BatchRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return self._refused(_custom_id(line), "invalid_json_line", f"it is no request: {error}")
        if request.custom_id in self._seen:
            return self._refused(request.custom_id, "duplicate_custom_id", "an earlier line has the same custom_id")
        self._seen.add(request.custom_id)
        if request.url not in ENDPOINTS:
            served = ", ".join(ENDPOINTS)
            return self._refused(request.custom_id, "invalid_url", f"url is {request.url!r}, but may be {served}")
        if request.body.get("stream"):
            return self._refused(request.custom_id, "invalid_request", "'stream' is not for batches; leave it out")
        return request

    def _refused(self, custom_id: str | None, code: str, reason: str) -> BatchResult:
        number = self._num_lines
        return BatchResult(f"batch_req_line_{number}", custom_id, None, LineError(code, f"line {number}: {reason}"))


def result_of(request: BatchRequest, answer: Answer) -> BatchResult:
    """A request's line of the output."""
    return BatchResult(f"batch_req_{answer.request_id}", request.custom_id, answer, None)


class _Named(msgspec.Struct):
    custom_id: str


def _custom_id(line: bytes) -> str | None:
    """The name of a line that is wrong otherwise."""
    try:
        return msgspec.json.decode(line, type=_Named).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
