"""A response's stream events, in OpenAI's order, as server-sent events. Pure: pieces of output in, frames out.

created (queued) in_progress
for each item: output_item.added ... its deltas ... output_item.done
completed | incomplete | failed
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.protocol.openai_responses import ContentLogprob, FinishReason, Usage
from gateway.responses.output_items import CallOutput, MessageOutput, OutputItem, ReasoningOutput
from gateway.responses.resource import IncompleteDetails, ResponseFault, ResponseResource, ResponseUsage
from gateway.text.choice_text import ToolCall


class Piece(NamedTuple):
    """More of a response's output: reasoning before text, and text before calls.

    Attributes:
        logprobs: Of the text's tokens, if they are told.
    """

    text: str = ""
    reasoning: str = ""
    calls: Sequence[ToolCall] = ()
    logprobs: Sequence[ContentLogprob] = ()


class ResponseEvents:
    """Writes one response's events, and knows the response as of the last of them. Implements `Frames`.

    Attributes:
        response: What a client that asks now is told.
        num_events: Those written, which is the number of the next.
    """

    def __init__(self, response: ResponseResource) -> None:
        self.response = response
        self.num_events = 0
        self._stem = response.id.removeprefix("resp_")
        self._items: list[OutputItem] = []
        self._reasoning: ReasoningOutput | None = None
        self._message: MessageOutput | None = None
        self._calls: dict[int, CallOutput] = {}
        self._untold: list[ContentLogprob] = []
        self._skip = Skip()
        self._has_started = False

    @classmethod
    def resume(cls, response: ResponseResource, frames: Sequence[bytes]) -> "ResponseEvents":
        """Go on after events that another one wrote. The output begins anew: what they hold of it is passed over."""
        events, told = cls(response), Skip()
        for frame in frames:
            event = msgspec.json.decode(frame.partition(b"\ndata: ")[2])
            events._has_started |= event["type"] == "response.in_progress"
            if piece := told.piece_of(event):
                events.push(piece)
        events._skip = told
        events.num_events = len(frames)
        return events

    def create(self) -> list[bytes]:
        """The response is known."""
        frames = [self._of_response("response.created")]
        if self.response.status == "queued":
            frames.append(self._of_response("response.queued"))
        return frames

    def start(self) -> list[bytes]:
        """The model works on it. Nothing if that has been said."""
        if self._has_started:
            return []
        self._has_started = True
        self._change(status="in_progress")
        return [self._of_response("response.in_progress")]

    def push(self, piece: Piece) -> list[bytes]:
        """More output; nothing if there is none that is new. Log-probabilities of tokens without text wait for some."""
        piece = self._skip.rest_of(piece)
        self._untold += piece.logprobs
        frames: list[bytes] = []
        if piece.reasoning:
            if self._reasoning is None:
                self._reasoning = ReasoningOutput(self, f"rs_{self._stem}", len(self._items))
                frames += self._begin(self._reasoning)
            frames += self._reasoning.push(piece.reasoning)
        if piece.text:
            frames += self._text(piece.text)
        for call in piece.calls:
            frames += self._call(call)
        return frames

    def end(self, reason: FinishReason, usage: Usage, *, now_s: int) -> list[bytes]:
        """The model has ended it, or had to."""
        status = "incomplete" if reason == "length" else "completed"
        frames = [] if self._items else self._begin_message()
        frames += self._items[-1].end(status)
        output = [item.item("completed") for item in self._items[:-1]] + [self._items[-1].item(status)]
        self._change(
            status=status,
            completed_at=now_s if status == "completed" else None,
            incomplete_details=IncompleteDetails("max_output_tokens") if status == "incomplete" else None,
            output=output,
            usage=ResponseUsage.of(usage),
        )
        return [*frames, self._of_response(f"response.{status}")]

    def fail(self, fault: ResponseFault) -> list[bytes]:
        """It could not be made."""
        self._change(status="failed", error=fault)
        return [self._of_response("response.failed")]

    def frame(self, kind: str, **fields: Any) -> bytes:  # noqa: ANN401 - the fields of an event
        """See `Frames`."""
        data = msgspec.json.encode({"type": kind, "sequence_number": self.num_events, **fields})
        self.num_events += 1
        return f"event: {kind}\ndata: ".encode() + data + b"\n\n"

    def delta(self, around: tuple[bytes, bytes], data: bytes) -> bytes:
        """See `Frames`."""
        before, after = around
        number = str(self.num_events).encode()
        self.num_events += 1
        return before + number + after + data + b"}\n\n"

    def _text(self, text: str) -> list[bytes]:
        frames = [] if self._message else self._begin_message()
        assert self._message is not None
        told, self._untold = self._untold, []
        return frames + self._message.push(text, told)

    def _call(self, call: ToolCall) -> list[bytes]:
        frames: list[bytes] = []
        if call.call not in self._calls:
            assert call.call_id is not None
            assert call.name is not None
            item_id = f"fc_{self._stem}_{call.call}"
            output = CallOutput(self, item_id, len(self._items), call_id=call.call_id, name=call.name)
            self._calls[call.call] = output
            frames += self._begin(output)
        return frames + (self._calls[call.call].push(call.arguments) if call.arguments else [])

    def _begin_message(self) -> list[bytes]:
        self._message = MessageOutput(self, f"msg_{self._stem}", len(self._items))
        return self._begin(self._message)

    def _begin(self, item: OutputItem) -> list[bytes]:
        """An item begins, and with it the one before has ended."""
        frames = self._items[-1].end("completed") if self._items else []
        self._items.append(item)
        return frames + item.begin()

    def _change(self, **fields: Any) -> None:  # noqa: ANN401 - the fields of a response
        self.response = msgspec.structs.replace(self.response, **fields)

    def _of_response(self, kind: str) -> bytes:
        return self.frame(kind, response=self.response)


class Skip:
    """How much of an output that begins anew has been told already."""

    def __init__(self) -> None:
        self._num_reasoning = 0
        self._num_text = 0
        self._num_logprobs = 0
        self._num_arguments: dict[int, int] = {}

    def piece_of(self, event: dict[str, Any]) -> Piece | None:
        """Count what an event tells of the output, and return it; None if that is nothing."""
        match event["type"]:
            case "response.reasoning_text.delta":
                self._num_reasoning += len(event["delta"])
                return Piece(reasoning=event["delta"])
            case "response.output_text.delta":
                self._num_text += len(event["delta"])
                self._num_logprobs += len(event["logprobs"])
                return Piece(event["delta"], logprobs=msgspec.convert(event["logprobs"], list[ContentLogprob]))
            case "response.output_item.added" if event["item"]["type"] == "function_call":
                call, item = len(self._num_arguments), event["item"]
                self._num_arguments[call] = 0
                return Piece(calls=[ToolCall(call, item["call_id"], item["name"], "")])
            case "response.function_call_arguments.delta":
                call = len(self._num_arguments) - 1
                self._num_arguments[call] += len(event["delta"])
                return Piece(calls=[ToolCall(call, None, None, event["delta"])])
            case _:
                return None

    def rest_of(self, piece: Piece) -> Piece:
        """What of a piece is new."""
        if not (self._num_reasoning or self._num_text or self._num_logprobs or self._num_arguments):
            return piece
        reasoning, self._num_reasoning = _rest(piece.reasoning, self._num_reasoning)
        text, self._num_text = _rest(piece.text, self._num_text)
        skipped = min(self._num_logprobs, len(piece.logprobs))
        self._num_logprobs -= skipped
        return Piece(text, reasoning, [self._rest_of_call(call) for call in piece.calls], piece.logprobs[skipped:])

    def _rest_of_call(self, call: ToolCall) -> ToolCall:
        arguments, left = _rest(call.arguments, self._num_arguments.get(call.call, 0))
        if call.call in self._num_arguments:
            self._num_arguments[call.call] = left
        return call._replace(arguments=arguments)


def _rest(text: str, num_told: int) -> tuple[str, int]:
    """The untold part of a text, and how much of what comes next has been told."""
    skipped = min(num_told, len(text))
    return text[skipped:], num_told - skipped
