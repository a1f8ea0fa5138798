"""The lines of a batch: what each asks for, and what is written for it. Pure."""

import struct
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from gateway.batches.batch_object import LineFault
from gateway.http.loopback import Answer

MAX_LINES: Final = 50_000
"""OpenAI's bound."""

MAX_FAULTS: Final = 100
"""Faults of a batch's input that are told."""

BATCH_PRIORITY: Final = 1 << 20
"""Of a line's request: behind everybody who waits for an answer."""

_HEAD: Final = struct.Struct(">IB")
_PASSING: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Line:
    """One request.

    Attributes:
        index: Its place in the input, from 0.
        body: JSON.
        url: The endpoint's path.
    """

    index: int
    custom_id: str
    body: dict[str, Any]
    url: str = ""


class LineReader:
    """Reads lines one after another, and remembers what they must not repeat.

    Args:
        endpoints: What a line may ask for.
    """

    def __init__(self, *endpoints: str) -> None:
        self._endpoints = endpoints
        self._custom_ids: set[str] = set()
        self.num_lines = 0

    def read(self, data: bytes) -> Line | LineFault | None:
        """The next line; None if it is blank."""
        index, self.num_lines = self.num_lines, self.num_lines + 1
        if not data.strip():
            self.num_lines -= 1
            return None
        number = index + 1
        try:
            fields = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return LineFault("invalid_json_line", "This line is not parseable as valid JSON.", number)
        if not isinstance(fields, dict):
            return LineFault("invalid_json_line", "This line is no JSON object.", number)
        return self._checked(index, fields)

    def _checked(self, index: int, fields: dict[str, Any]) -> Line | LineFault:
        number, custom_id = index + 1, fields.get("custom_id")
        if not isinstance(custom_id, str) or not custom_id:
            return LineFault("missing_required_parameter", "'custom_id' must be a string.", number, "custom_id")
        if custom_id in self._custom_ids:
            return LineFault(
                "duplicate_custom_id", f"The custom_id {custom_id!r} was used before.", number, "custom_id"
            )
        self._custom_ids.add(custom_id)
        if fields.get("method", "POST") != "POST":
            return LineFault("invalid_method", "'method' must be 'POST'.", number, "method")
        if fields.get("url") not in self._endpoints:
            served = " or ".join(self._endpoints)
            return LineFault("invalid_url", f"'url' must be the batch's endpoint, {served}.", number, "url")
        if not isinstance(fields.get("body"), dict):
            return LineFault("missing_required_parameter", "'body' must be an object.", number, "body")
        return Line(index, custom_id, fields["body"], fields["url"])


def request_of(line: Line) -> bytes:
    """What is sent for a line."""
    priority = line.body.get("priority")
    behind = max(priority, BATCH_PRIORITY) if isinstance(priority, int) else BATCH_PRIORITY
    return msgspec.json.encode(line.body | {"priority": behind})


def refusal_of(line: Line) -> Answer | None:
    """The answer to what no line may ask for."""
    for name in ("stream", "background"):
        if line.body.get(name):
            message = f"'{name}' is not supported in a batch"
            error = {"message": message, "type": "invalid_request_error", "param": name, "code": None}
            return Answer(400, "", msgspec.json.encode({"error": error}))
    return None


def is_passing(answer: Answer) -> bool:
    """Whether a later attempt may be answered otherwise."""
    return answer.status in _PASSING


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answered line, as it is kept until the batch is over.

    Attributes:
        is_failure: It belongs in the error file.
        text: Its line there, or in the output file.
    """

    index: int
    is_failure: bool
    text: bytes

    def encode(self) -> bytes:
        """As bytes."""
        return _HEAD.pack(self.index, self.is_failure) + self.text

    @classmethod
    def decode(cls, data: bytes) -> "Outcome":
        """From bytes."""
        index, is_failure = _HEAD.unpack_from(data)
        return cls(index, bool(is_failure), data[_HEAD.size :])


def outcome_of(batch_id: str, line: Line, answer: Answer) -> Outcome:
    """What a line was answered."""
    response = {"status_code": answer.status, "request_id": answer.request_id, "body": msgspec.Raw(answer.body)}
    is_failure = answer.status >= HTTPStatus.BAD_REQUEST
    return Outcome(line.index, is_failure, _text(batch_id, line, response, None))


def expired(batch_id: str, line: Line) -> Outcome:
    """What is written for a line whose time has run out."""
    message = "This request could not be executed before the completion window expired."
    text = _text(batch_id, line, None, {"code": "batch_expired", "message": message})
    return Outcome(line.index, is_failure=True, text=text)


def usage_of(answer: Answer) -> dict[str, Any]:
    """The tokens that an answer says it used."""
    body = msgspec.json.decode(answer.body)
    usage = body.get("usage") if isinstance(body, dict) else None
    return usage if isinstance(usage, dict) else {}


def _text(batch_id: str, line: Line, response: object, error: object) -> bytes:
    name = f"batch_req_{batch_id.removeprefix('batch_')[:16]}_{line.index}"
    fields = {"id": name, "custom_id": line.custom_id, "response": response, "error": error}
    return msgspec.json.encode(fields)
