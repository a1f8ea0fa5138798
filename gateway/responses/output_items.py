"""The events of one item of a response's output, from its beginning to its end. Pure."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from gateway.protocol.openai_responses import ContentLogprob
from gateway.responses.items import Item, call_item, reasoning_item


class Frames(Protocol):
    """Writes frames under the next numbers."""

    def frame(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - the fields of an event
        """One event."""

    def delta(self, around: tuple[bytes, bytes], data: bytes) -> bytes:
        """An event of which only `data` is new; see `around_delta`."""


def around_delta(kind: str, place: dict[str, object]) -> tuple[bytes, bytes]:
    """What comes before an event's number, and between that and its data."""
    head = f'event: {kind}\ndata: {{"type":"{kind}","sequence_number":'
    return head.encode(), b"," + msgspec.json.encode(place)[1:-1] + b","


class OutputItem(Protocol):
    """Writes one item; begun, given text piece by piece, and ended once."""

    def begin(self) -> list[bytes]:
        """It is there."""

    def end(self, status: str) -> list[bytes]:
        """Nothing more comes: it is "completed" or "incomplete"."""

    def item(self, status: str) -> Item:
        """All of it so far."""


class MessageOutput:
    """The message. Implements `OutputItem`."""

    def __init__(self, frames: Frames, item_id: str, index: int) -> None:
        self._frames = frames
        self._item_id = item_id
        self._index = index
        self._place = {"item_id": item_id, "output_index": index, "content_index": 0}
        self._around = around_delta("response.output_text.delta", self._place)
        self._texts: list[str] = []
        self._logprobs: list[ContentLogprob] = []

    def begin(self) -> list[bytes]:
        """See `OutputItem`."""
        item = self.item("in_progress") | {"content": []}
        return [
            self._frames.frame("response.output_item.added", output_index=self._index, item=item),
            self._frames.frame("response.content_part.added", **self._place, part=_text_part("")),
        ]

    def push(self, text: str, logprobs: Sequence[ContentLogprob]) -> list[bytes]:
        """More text."""
        self._texts.append(text)
        self._logprobs += logprobs
        data = b'"delta":' + msgspec.json.encode(text) + b',"logprobs":' + msgspec.json.encode(logprobs)
        return [self._frames.delta(self._around, data)]

    def end(self, status: str) -> list[bytes]:
        """See `OutputItem`."""
        item = self.item(status)
        (part,) = item["content"]
        return [
            self._frames.frame("response.output_text.done", **self._place, text=part["text"], logprobs=self._logprobs),
            self._frames.frame("response.content_part.done", **self._place, part=part),
            self._frames.frame("response.output_item.done", output_index=self._index, item=item),
        ]

    def item(self, status: str) -> Item:
        """See `OutputItem`."""
        part = _text_part("".join(self._texts), self._logprobs)
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": [part]}


class ReasoningOutput:
    """What is thought before the message. Implements `OutputItem`."""

    def __init__(self, frames: Frames, item_id: str, index: int) -> None:
        self._frames = frames
        self._item_id = item_id
        self._index = index
        self._place = {"item_id": item_id, "output_index": index, "content_index": 0}
        self._around = around_delta("response.reasoning_text.delta", self._place)
        self._texts: list[str] = []

    def begin(self) -> list[bytes]:
        """See `OutputItem`."""
        part = {"type": "reasoning_text", "text": ""}
        return [
            self._frames.frame("response.output_item.added", output_index=self._index, item=self.item("in_progress")),
            self._frames.frame("response.content_part.added", **self._place, part=part),
        ]

    def push(self, text: str) -> list[bytes]:
        """More of it."""
        self._texts.append(text)
        return [self._frames.delta(self._around, b'"delta":' + msgspec.json.encode(text))]

    def end(self, status: str) -> list[bytes]:
        """See `OutputItem`."""
        text = "".join(self._texts)
        part = {"type": "reasoning_text", "text": text}
        return [
            self._frames.frame("response.reasoning_text.done", **self._place, text=text),
            self._frames.frame("response.content_part.done", **self._place, part=part),
            self._frames.frame("response.output_item.done", output_index=self._index, item=self.item(status)),
        ]

    def item(self, status: str) -> Item:
        """See `OutputItem`."""
        return reasoning_item(self._item_id, "".join(self._texts), status=status)


class CallOutput:
    """A call of a function. Implements `OutputItem`."""

    def __init__(self, frames: Frames, item_id: str, index: int, *, call_id: str, name: str) -> None:
        self._frames = frames
        self._item_id = item_id
        self._index = index
        self._call_id = call_id
        self._name = name
        self._place = {"item_id": item_id, "output_index": index}
        self._around = around_delta("response.function_call_arguments.delta", self._place)
        self._arguments: list[str] = []

    def begin(self) -> list[bytes]:
        """See `OutputItem`."""
        item = self.item("in_progress")
        return [self._frames.frame("response.output_item.added", output_index=self._index, item=item)]

    def push(self, arguments: str) -> list[bytes]:
        """More of its arguments."""
        self._arguments.append(arguments)
        return [self._frames.delta(self._around, b'"delta":' + msgspec.json.encode(arguments))]

    def end(self, status: str) -> list[bytes]:
        """See `OutputItem`."""
        arguments = "".join(self._arguments)
        return [
            self._frames.frame(
                "response.function_call_arguments.done", **self._place, name=self._name, arguments=arguments
            ),
            self._frames.frame("response.output_item.done", output_index=self._index, item=self.item(status)),
        ]

    def item(self, status: str) -> Item:
        """See `OutputItem`."""
        return call_item(self._item_id, self._call_id, self._name, "".join(self._arguments), status=status)


def _text_part(text: str, logprobs: Sequence[ContentLogprob] = ()) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
