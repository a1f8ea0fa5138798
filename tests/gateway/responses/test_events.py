import json

from gateway.openai_responses import ContentLogprob, PromptTokensDetails, Usage
from gateway.responses.body import ResponseBody
from gateway.responses.events import ResponseEvents
from gateway.responses.resource import ResponseFault, ResponseResource

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


def all_frames(events: ResponseEvents, *texts: str, reason: str = "stop") -> list[bytes]:
    frames = [*events.create(), *events.start()]
    for text in texts:
        frames += events.delta(text)
    return frames + events.end(reason, USAGE, now_s=9)


def test_events_come_in_openais_order_and_are_numbered() -> None:
    events = parsed(all_frames(begin(), 'one "quoted"\n', "", "two 🎉"))
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
    events = parsed(all_frames(begin(), "one", reason="length"))
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


def test_whoever_goes_on_writes_what_is_missing_however_its_text_is_split() -> None:
    first = begin(background=True)
    whole = parsed([*all_frames(first, "abc", "def", "ghi")])
    for cut in range(1, len(whole)):
        one = begin(background=True)
        frames = [*one.create(), *one.start(), *one.delta("abc"), *one.delta("def"), *one.delta("ghi")][:cut]
        other = ResponseEvents.resume(one.response, frames)
        if cut == 1:
            continue  # created and queued are written at once
        frames += other.start()
        for text in ("a", "bcd", "efghi"):
            frames += other.delta(text)
        if cut in {3, 4}:
            continue  # so are those that start the message
        frames += other.end("stop", USAGE, now_s=9)
        events = parsed(frames)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert "".join(event["delta"] for event in events if "delta" in event) == "abcdefghi"
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "abcdefghi"
        assert [event["type"] for event in events].count("response.in_progress") == 1


def scored(text: str) -> list[ContentLogprob]:
    return [ContentLogprob(letter, -float(place), list(letter.encode()), []) for place, letter in enumerate(text)]


def test_each_tokens_log_probability_is_told_once_also_by_whoever_goes_on() -> None:
    first = begin(background=True)
    frames = [*first.create(), *first.start(), *first.delta("ab", scored("ab")), *first.delta("", scored("c"))]
    other = ResponseEvents.resume(first.response, frames)
    frames += [*other.start(), *other.delta("abc", scored("abcd")), *other.delta("de", scored("e"))]
    events = parsed(frames + other.end("stop", USAGE, now_s=9))
    told = [event["logprobs"] for event in events if event["type"] == "response.output_text.delta"]
    assert [[token["token"] for token in tokens] for tokens in told] == [["a", "b"], ["c", "d"], ["e"]]
    (part,) = events[-1]["response"]["output"][0]["content"]
    assert [token["token"] for token in part["logprobs"]] == list("abcde")
    assert part["text"] == "abcde"
