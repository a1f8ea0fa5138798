"""One streamed answer as its client reads it: tokens, text and log-probabilities of each choice, and when they came."""

import json
from dataclasses import dataclass, field
from typing import Final

import msgspec

from loadtest.chaos.requests import ChaosRequest

_DATA: Final = b"data:"
_ID: Final = b"id:"
_DONE: Final = b"[DONE]"


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Logprobs(msgspec.Struct, frozen=True):
    token_logprobs: tuple[float, ...] = ()


class _Choice(msgspec.Struct, frozen=True):
    index: int
    text: str | None = None
    delta: _Delta | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, frozen=True):
    completion_tokens: int


class _Chunk(msgspec.Struct, frozen=True):
    id: str = ""
    choices: tuple[_Choice, ...] = ()
    usage: _Usage | None = None
    error: object = None


_decode = msgspec.json.Decoder(_Chunk).decode


@dataclass(slots=True)
class Choice:
    """What is here of one choice."""

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


class Answer:
    """Grows with the bytes of a stream.

    Attributes:
        started_s: When the request was sent; this and the others in seconds of one monotonic clock.
        piece_times_s: When anything with a token came.
        ended_s: When the stream ended.
        request_id: As the server calls it.
        num_told_tokens: Of all choices, as the server counted them at the end.
        error: What the server said instead of an end; None if it did not.
        is_complete: Whether the stream's own end has come.
        is_broken: Whether the connection ended before that, for good.
        last_event_id: Of the last event that came whole; empty if events have none.
    """

    def __init__(self, request: ChaosRequest, started_s: float) -> None:
        self.request = request
        self.started_s = started_s
        self.ended_s = started_s
        self.piece_times_s: list[float] = []
        self.choices = [Choice() for _ in range(request.num_choices)]
        self.request_id = ""
        self.num_told_tokens: int | None = None
        self.error: str | None = None
        self.is_complete = False
        self.is_broken = False
        self.last_event_id = ""
        self._event_id = ""
        self._tail = b""

    @property
    def num_tokens(self) -> int:
        """Of all choices."""
        return sum(len(choice.token_ids) for choice in self.choices)

    def push(self, data: bytes, now_s: float) -> None:
        """Take what has come in, cut anywhere.

        Raises:
            DecodeError: it is no stream of OpenAI's chunks.
        """
        *lines, self._tail = (self._tail + data).split(b"\n")
        for line in lines:
            if line.startswith(_ID):
                self._event_id = line[len(_ID) :].strip().decode()
            elif line.startswith(_DATA):
                self._take(line[len(_DATA) :].strip(), now_s)
                self.last_event_id = self._event_id

    def go_on(self) -> None:
        """What comes next is another connection's: half a line of the one before it is not its beginning."""
        self._tail = b""

    def _take(self, event: bytes, now_s: float) -> None:
        if event == _DONE:
            self.is_complete = True
            return
        chunk = _decode(event)
        self.request_id = chunk.id or self.request_id
        if chunk.error is not None:
            self.error = json.dumps(chunk.error)
        if chunk.usage is not None:
            self.num_told_tokens = chunk.usage.completion_tokens
        for piece in chunk.choices:
            choice = self.choices[piece.index]
            choice.token_ids += piece.token_ids
            choice.text += (piece.text if piece.delta is None else piece.delta.content) or ""
            if piece.logprobs is not None:
                choice.logprobs += piece.logprobs.token_logprobs
            choice.finish_reason = piece.finish_reason or choice.finish_reason
            if piece.token_ids:
                self.piece_times_s.append(now_s)
