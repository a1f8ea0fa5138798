"""Server-sent events: chunks as bytes. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.protocol.openai_responses import Usage
from gateway.resumption.event_id import EventNumbers
from gateway.shapes.shape import Prompt, Shape
from gateway.text.choice_text import TextDelta

DONE: Final = b"data: [DONE]\n\n"
_PLACEHOLDER: Final = "\0text\0"
_PLACEHOLDER_JSON: Final = msgspec.json.encode(_PLACEHOLDER)


def event(data: bytes) -> bytes:
    """One event."""
    return b"data: " + data + b"\n\n"


class EventWriter:
    """Writes one call's stream.

    Where nothing is told beside the text, a text event is rendered once per choice: only its text is new each time.

    Attributes:
        wants_continuous_usage: Whether each delta is to come with the tokens used so far.

    Args:
        shape: How chunks look.
        num_choices: Of the call.
        numbers: Gives events their ids; None if all events are sent, and without one.
    """

    def __init__(self, shape: Shape, num_choices: int, numbers: EventNumbers | None = None) -> None:
        self._shape = shape
        self._num_choices = num_choices
        self._numbers = numbers
        self._follows_tokens = shape.detail.follows_tokens
        self.wants_continuous_usage = shape.detail.continuous_usage
        self._around_text = [self._halves(choice) for choice in range(num_choices)]

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with the tokens used."""
        return self._shape.detail.usage

    def opening(self, prompts: Sequence[Prompt]) -> bytes:
        """What comes before any text; each prompt has as many choices."""
        num_per_prompt = self._num_choices // len(prompts)
        chunks = [
            self._shape.opening_chunk(choice, prompts[choice // num_per_prompt]) for choice in range(self._num_choices)
        ]
        return b"".join(
            self._numbered(choice, event(chunk)) for choice, chunk in enumerate(chunks) if chunk is not None
        )

    def delta(self, delta: TextDelta, usage: Usage | None = None) -> bytes:
        """More text, or the end of a choice, or both; nothing if there is neither."""
        data = b""
        is_message = bool(delta.reasoning or delta.calls)
        if self._follows_tokens or is_message:
            if delta.text or delta.token_ids or is_message:
                data = self._numbered(delta.choice, event(self._shape.text_chunk(delta, usage)))
        elif delta.text:
            before, after = self._around_text[delta.choice]
            data = self._numbered(delta.choice, before + msgspec.json.encode(delta.text) + after)
        if delta.finish_reason is not None:
            data += self._numbered(delta.choice, event(self._shape.closing_chunk(delta, usage)))
        return data

    def usage(self, usage: Usage) -> bytes:
        """The tokens used, for those who asked."""
        return self._numbered(0, event(self._shape.usage_chunk(usage)))

    def _numbered(self, choice: int, data: bytes) -> bytes:
        return data if self._numbers is None else self._numbers.numbered(choice, data)

    def _halves(self, choice: int) -> tuple[bytes, bytes]:
        chunk = self._shape.text_chunk(TextDelta(choice, _PLACEHOLDER))
        before, _, after = event(chunk).rpartition(_PLACEHOLDER_JSON)
        return before, after
