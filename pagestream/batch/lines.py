"""What is written for each line of a batch file. What lines may hold is `gateway.batches.lines`'. Pure."""

from typing import Final

import msgspec

from gateway.batches.batch_object import LineFault
from gateway.batches.lines import Line, outcome_of
from gateway.http.loopback import Answer

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""What a line may ask for."""

_RUN: Final = "batch_run"


class _Named(msgspec.Struct):
    custom_id: str


def answered(line: Line, answer: Answer) -> bytes:
    """The line of the output for a request that was answered, be it by an error."""
    return outcome_of(_RUN, line, answer).text + b"\n"


def refused(data: bytes, fault: LineFault) -> bytes:
    """The line of the output for a line that is no request."""
    error = {"code": fault.code, "message": f"line {fault.line}: {fault.message}"}
    name = f"batch_req_run_{(fault.line or 1) - 1}"
    fields = {"id": name, "custom_id": _custom_id(data), "response": None, "error": error}
    return msgspec.json.encode(fields) + b"\n"


def _custom_id(data: bytes) -> str | None:
    try:
        return msgspec.json.decode(data, type=_Named).custom_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
