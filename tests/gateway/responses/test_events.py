import functools
import json

import pytest

from gateway.protocol.openai_responses import ContentLogprob, PromptTokensDetails, Usage
from gateway.responses.body import ResponseBody
from gateway.responses.events import Piece, ResponseEvents
from gateway.responses.resource import ResponseFault, ResponseResource
from gateway.text.choice_text import ToolCall

USAGE = Usage(3, 4, 7, PromptTokensDetails(2))
ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def begin(**fields: object) -> ResponseEvents:
    body = ResponseBody.parse(json.dumps({"model": "m", "input": "Hi"} | fields).encode())
    return ResponseEvents(ResponseResource.begin(body, "resp_1", created_at=5))


def parsed(frames: list[bytes]) -> list[dict]:
    events = []
    for frame in frames:
        name, data, *rest = frame.decode().split("\n")
        assert rest == ["", ""]
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def all_frames(events: ResponseEvents, *pieces: Piece, reason: str = "stop") -> list[bytes]:
    frames = [*events.create(), *events.start()]
    for piece in pieces:
        frames += events.push(piece)
    return frames + events.end(reason, USAGE, now_s=9)


def test_events_come_in_openais_order_and_are_numbered() -> None:
    events = parsed(all_frames(begin(), Piece('one "quoted"\n'), Piece(), Piece("two 🎉")))
    assert [event["type"] for event in events] == ORDER
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = 'one "quoted"\ntwo 🎉'
    assert "".join(event["delta"] for event in events if "delta" in event) == text
    assert events[6]["text"] == events[7]["part"]["text"] == events[8]["item"]["content"][0]["text"] == text
    assert {event["item_id"] for event in events if "item_id" in event} == {events[8]["item"]["id"]}
    response = events[-1]["response"]
    assert response["output"] == [events[8]["item"]]
    assert response["status"] == "completed"
    assert response["completed_at"] == 9
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 7,
    }


def test_an_answer_that_was_cut_short_is_incomplete() -> None:
    events = parsed(all_frames(begin(), Piece("one"), reason="length"))
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"
    assert events[-1]["response"]["completed_at"] is None


def test_a_response_in_the_background_begins_in_the_queue() -> None:
    events = begin(background=True)
    assert [event["type"] for event in parsed(events.create())] == ["response.created", "response.queued"]
    assert events.response.status == "queued"
    events.start()
    assert events.response.status == "in_progress"


def test_a_failed_response_says_why() -> None:
    events = begin()
    (event,) = parsed(events.fail(ResponseFault("server_error", "oh")))
    assert event["type"] == "response.failed"
    assert event["response"]["error"] == {"code": "server_error", "message": "oh"}
    assert event["response"]["status"] == "failed"


OUTPUT = [
    Piece(reasoning="I th"),
    Piece(reasoning="ink.", text="Look"),
    Piece(text="ing.", logprobs=[ContentLogprob("ing", -1.0, [105], [])]),
    Piece(calls=[ToolCall(0, "call_a", "find", '{"q"')]),
    Piece(calls=[ToolCall(0, None, None, ": 1}"), ToolCall(1, "call_b", "find", "")]),
    Piece(calls=[ToolCall(1, None, None, '{"q": 2}')]),
]


def test_reasoning_text_and_calls_are_items_one_after_another() -> None:
    events = parsed(all_frames(begin(), *OUTPUT, reason="tool_calls"))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in added] == ["reasoning", "message", "function_call", "function_call"]
    assert [event["output_index"] for event in done] == [0, 1, 2, 3]
    reasoning, message, first, second = events[-1]["response"]["output"]
    assert [event["item"] for event in done] == [reasoning, message, first, second]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "I think."}]
    assert message["content"][0]["text"] == "Looking."
    assert (first["call_id"], first["name"], first["arguments"]) == ("call_a", "find", '{"q": 1}')
    assert (second["call_id"], second["arguments"]) == ("call_b", '{"q": 2}')
    assert len({item["id"] for item in (reasoning, message, first, second)}) == 4
    for kind, field in (("output_text", "text"), ("reasoning_text", "text"), ("function_call_arguments", "arguments")):
        deltas = "".join(event["delta"] for event in events if event["type"] == f"response.{kind}.delta")
        assert deltas == "".join(event[field] for event in events if event["type"] == f"response.{kind}.done")


def letter_by_letter() -> list[Piece]:
    """The same output in other pieces, and with other ids, as of another attempt."""
    calls = [ToolCall(0, "call_c", "find", ""), *(ToolCall(0, None, None, letter) for letter in '{"q": 1}')]
    calls += [ToolCall(1, "call_d", "find", ""), *(ToolCall(1, None, None, letter) for letter in '{"q": 2}')]
    logprobs = [ContentLogprob("ing", -1.0, [105], [])]
    return [
        *(Piece(reasoning=letter) for letter in "I think."),
        *(Piece(letter) for letter in "Looking"),
        Piece(".", logprobs=logprobs),
        *(Piece(calls=[call]) for call in calls),
    ]


@pytest.mark.parametrize("num_acts", range(2, len(OUTPUT) + 3))
def test_whoever_goes_on_writes_what_is_missing_however_it_is_split(num_acts: int) -> None:
    first = begin(background=True)
    acts = [first.create, first.start, *(functools.partial(first.push, piece) for piece in OUTPUT)]
    frames = [frame for act in acts[:num_acts] for frame in act()]
    other = ResponseEvents.resume(begin(background=True).response, frames)
    frames += other.start()
    for piece in letter_by_letter():
        frames += other.push(piece)
    events = parsed(frames + other.end("tool_calls", USAGE, now_s=9))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    types = [event["type"] for event in events]
    assert types.count("response.in_progress") == 1
    assert types.count("response.output_item.added") == types.count("response.output_item.done") == 4
    output = events[-1]["response"]["output"]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == output
    assert output[0]["content"][0]["text"] == "I think."
    assert output[1]["content"][0]["text"] == "Looking."
    assert len(output[1]["content"][0]["logprobs"]) == 1
    assert [item["arguments"] for item in output[2:]] == ['{"q": 1}', '{"q": 2}']


def scored(text: str) -> list[ContentLogprob]:
    return [ContentLogprob(letter, -float(place), list(letter.encode()), []) for place, letter in enumerate(text)]


def test_log_probabilities_of_tokens_without_text_go_with_the_next() -> None:
    events = parsed(all_frames(begin(), Piece("ab", logprobs=scored("ab")), Piece(logprobs=scored("c")), Piece("cd")))
    told = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [[token["token"] for token in tokens] for tokens in told] == [["a", "b"], ["c"]]
