"""Server-sent events: chunks as bytes. Pure."""

from typing import Final

import msgspec

from gateway.choice_text import TextDelta
from gateway.openai_responses import Shape, Usage

DONE: Final = b"data: [DONE]\n\n"
_PLACEHOLDER: Final = "\0text\0"
_PLACEHOLDER_JSON: Final = msgspec.json.encode(_PLACEHOLDER)


def event(data: bytes) -> bytes:
    """One event."""
    return b"data: " + data + b"\n\n"


class EventWriter:
    """Writes one call's stream. A text event is rendered once per choice; only its text is new each time."""

    def __init__(self, shape: Shape, num_choices: int) -> None:
        self._shape = shape
        self._num_choices = num_choices
        self._around_text = [self._halves(choice) for choice in range(num_choices)]

    def opening(self) -> bytes:
        """What comes before any text."""
        chunks = (self._shape.opening_chunk(choice) for choice in range(self._num_choices))
        return b"".join(event(chunk) for chunk in chunks if chunk is not None)

    def delta(self, delta: TextDelta) -> bytes:
        """More text, or the end of a choice, or both; nothing if there is neither."""
        data = b""
        if delta.text:
            before, after = self._around_text[delta.choice]
            data = before + msgspec.json.encode(delta.text) + after
        if delta.finish_reason is not None:
            data += event(self._shape.closing_chunk(delta.choice, delta.finish_reason))
        return data

    def usage(self, usage: Usage) -> bytes:
        """The tokens used, for those who asked."""
        return event(self._shape.usage_chunk(usage))

    def _halves(self, choice: int) -> tuple[bytes, bytes]:
        before, _, after = event(self._shape.text_chunk(choice, _PLACEHOLDER)).rpartition(_PLACEHOLDER_JSON)
        return before, after
