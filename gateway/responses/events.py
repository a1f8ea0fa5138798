"""A response's stream events, in OpenAI's order, as server-sent events. Pure: text in, frames out.

created (queued) in_progress  output_item.added  content_part.added  output_text.delta ...
output_text.done  content_part.done  output_item.done  completed | incomplete | failed
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from gateway.openai_responses import ContentLogprob, FinishReason, Usage
from gateway.responses.items import Item
from gateway.responses.resource import IncompleteDetails, ResponseFault, ResponseResource, ResponseUsage

_DELTA: Final = "response.output_text.delta"
_PLACE: Final = {"output_index": 0, "content_index": 0}


class ResponseEvents:
    """Writes one response's events, and knows the response as of the last of them.

    Attributes:
        response: What a client that asks now is told.
    """

    def __init__(self, response: ResponseResource) -> None:
        self.response = response
        self._message_id = f"msg_{response.id.removeprefix('resp_')}"
        self._num_events = 0
        self._texts: list[str] = []
        self._logprobs: list[ContentLogprob] = []
        self._num_told_logprobs = 0
        self._num_to_skip = 0
        self._num_logprobs_to_skip = 0
        self._has_started = False
        place = msgspec.json.encode({"item_id": self._message_id, **_PLACE})[1:-1]
        self._around_number = (
            f'event: {_DELTA}\ndata: {{"type":"{_DELTA}","sequence_number":'.encode(),
            b"," + place + b',"delta":',
        )

    @classmethod
    def resume(cls, response: ResponseResource, frames: Sequence[bytes]) -> "ResponseEvents":
        """Go on after events that another one wrote. The text begins anew: what they hold of it is passed over."""
        events = cls(response)
        events._num_events = len(frames)
        for frame in frames:
            event = msgspec.json.decode(frame.partition(b"\ndata: ")[2])
            if event["type"] == _DELTA:
                events._num_to_skip += len(event["delta"])
                events._num_logprobs_to_skip += len(event["logprobs"])
                events._texts.append(event["delta"])
                events._logprobs += msgspec.convert(event["logprobs"], list[ContentLogprob])
            events._has_started |= event["type"] == "response.in_progress"
        events._num_told_logprobs = len(events._logprobs)
        return events

    @property
    def num_events(self) -> int:
        """Those written, which is the number of the next."""
        return self._num_events

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
        item: Item = {**self._message("in_progress"), "content": []}
        return [
            self._of_response("response.in_progress"),
            self._frame("response.output_item.added", output_index=0, item=item),
            self._frame("response.content_part.added", item_id=self._message_id, **_PLACE, part=_part("")),
        ]

    def delta(self, text: str, logprobs: Sequence[ContentLogprob] = ()) -> list[bytes]:
        """More text; nothing if there is none that is new. Log-probabilities of tokens without text wait for some."""
        skipped = min(self._num_logprobs_to_skip, len(logprobs))
        self._num_logprobs_to_skip -= skipped
        self._logprobs += logprobs[skipped:]
        skipped = min(self._num_to_skip, len(text))
        self._num_to_skip -= skipped
        text = text[skipped:]
        if not text:
            return []
        self._texts.append(text)
        told, self._num_told_logprobs = self._logprobs[self._num_told_logprobs :], len(self._logprobs)
        before, after = self._around_number
        number = str(self._num_events).encode()
        self._num_events += 1
        data = msgspec.json.encode(text) + b',"logprobs":' + msgspec.json.encode(told)
        return [before + number + after + data + b"}\n\n"]

    def end(self, reason: FinishReason, usage: Usage, *, now_s: int) -> list[bytes]:
        """The model has ended it, or had to."""
        status = "incomplete" if reason == "length" else "completed"
        text = "".join(self._texts)
        part = _part(text, self._logprobs)
        item = {**self._message(status), "content": [part]}
        place = {"item_id": self._message_id, **_PLACE}
        frames = [
            self._frame("response.output_text.done", **place, text=text, logprobs=self._logprobs),
            self._frame("response.content_part.done", **place, part=part),
            self._frame("response.output_item.done", output_index=0, item=item),
        ]
        self._change(
            status=status,
            completed_at=now_s if status == "completed" else None,
            incomplete_details=IncompleteDetails("max_output_tokens") if status == "incomplete" else None,
            output=[item],
            usage=ResponseUsage.of(usage),
        )
        return [*frames, self._of_response(f"response.{status}")]

    def fail(self, fault: ResponseFault) -> list[bytes]:
        """It could not be made."""
        self._change(status="failed", error=fault)
        return [self._of_response("response.failed")]

    def _change(self, **fields: Any) -> None:  # noqa: ANN401 - the fields of a response
        self.response = msgspec.structs.replace(self.response, **fields)

    def _message(self, status: str) -> Item:
        return {"id": self._message_id, "type": "message", "status": status, "role": "assistant"}

    def _of_response(self, kind: str) -> bytes:
        return self._frame(kind, response=self.response)

    def _frame(self, kind: str, **fields: object) -> bytes:
        data = msgspec.json.encode({"type": kind, "sequence_number": self._num_events, **fields})
        self._num_events += 1
        return f"event: {kind}\ndata: ".encode() + data + b"\n\n"


def _part(text: str, logprobs: Sequence[ContentLogprob] = ()) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
