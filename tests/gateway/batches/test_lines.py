import json

import msgspec
import pytest

from gateway.batches.batch_object import LineFault
from gateway.batches.lines import (
    BATCH_PRIORITY,
    Line,
    LineReader,
    Outcome,
    expired,
    outcome_of,
    refusal_of,
    request_of,
    usage_of,
)
from gateway.http.loopback import Answer

URL = "/v1/completions"


def line(**fields: object) -> bytes:
    return json.dumps({"custom_id": "a", "method": "POST", "url": URL, "body": {"prompt": "x"}} | fields).encode()


def test_lines_are_read_with_their_places() -> None:
    reader = LineReader(URL)
    found = [reader.read(data) for data in (line(), b"  \r", line(custom_id="b"))]
    assert found == [Line(0, "a", {"prompt": "x"}, URL), None, Line(1, "b", {"prompt": "x"}, URL)]
    assert reader.num_lines == 2


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"\xff", "invalid_json_line"),
        (b"[" * 5000 + b"]" * 5000, "invalid_json_line"),
        (b"[]", "invalid_json_line"),
        (line(custom_id=None), "missing_required_parameter"),
        (line(custom_id="first"), "duplicate_custom_id"),
        (line(method="GET"), "invalid_method"),
        (line(url="/v1/chat/completions"), "invalid_url"),
        (line(body="x"), "missing_required_parameter"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_with_its_number(data: bytes, code: str) -> None:
    reader = LineReader(URL)
    reader.read(line(custom_id="first"))
    fault = reader.read(data)
    assert isinstance(fault, LineFault)
    assert (fault.code, fault.line) == (code, 2)


@pytest.mark.parametrize(
    ("given", "sent"), [({}, BATCH_PRIORITY), ({"priority": 5}, BATCH_PRIORITY), ({"priority": 1 << 25}, 1 << 25)]
)
def test_a_line_comes_behind_everybody_who_waits(given: dict, sent: int) -> None:
    assert json.loads(request_of(Line(0, "a", given)))["priority"] == sent


def test_a_line_may_not_stream_nor_run_in_the_background() -> None:
    assert refusal_of(Line(0, "a", {"stream": False})) is None
    for name in ("stream", "background"):
        answer = refusal_of(Line(0, "a", {name: True}))
        assert answer is not None
        assert json.loads(answer.body)["error"]["param"] == name


def test_outcomes_are_openais_lines() -> None:
    asked = Line(7, "a", {})
    outcome = outcome_of("batch_12", asked, Answer(200, "r", b'{"usage":{"prompt_tokens":3}}'))
    assert Outcome.decode(outcome.encode()) == outcome
    assert not outcome.is_failure
    assert json.loads(outcome.text) == {
        "id": "batch_req_12_7",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "r", "body": {"usage": {"prompt_tokens": 3}}},
        "error": None,
    }
    assert outcome_of("batch_12", asked, Answer(400, "r", b"{}")).is_failure
    late = expired("batch_12", asked)
    assert late.is_failure
    assert json.loads(late.text)["error"]["code"] == "batch_expired"
    assert json.loads(late.text)["response"] is None


def test_usage_is_found_where_there_is_some() -> None:
    assert usage_of(Answer(200, "r", b'{"usage":{"input_tokens":3}}')) == {"input_tokens": 3}
    assert usage_of(Answer(400, "r", b'{"error":{}}')) == {}
    assert usage_of(Answer(200, "r", msgspec.json.encode([1]))) == {}
