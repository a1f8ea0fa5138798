"""A gateway is killed in the middle of streams: another one goes on with them, with the same bytes."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.system.processes import Services

MESSAGES = [{"role": "user", "content": "Tell me about a lighthouse."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "light",
        "parameters": {"type": "object", "properties": {"where": {"type": "string", "maxLength": 60}}},
    },
}
BASE = {"model": "demo", "messages": MESSAGES, "stream": True, "temperature": 0, "max_tokens": 40}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"max_tokens": 60},
    "seeded": {"temperature": 1, "seed": 7},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "two choices": {"n": 2, "temperature": 1, "seed": 3},
    "usage": {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    "tools": {"tools": [TOOL], "tool_choice": "required"},
    "stop": {"stop": ["house"], "stream_options": {"include_usage": True}},
}
NUM_SEEN = 5
READS_IDS = {"accept": "text/event-stream"}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("resumption")) as running:
        running.start_all(workers=1, worker_flags=("--max-model-len", "512", "--kv-cache-memory-bytes", "256M"))
        yield running


def events_of(data: str) -> list[str]:
    return [event for event in data.split("\n\n") if event]


def read(parts: Iterator[str], num_events: int) -> str:
    data = ""
    while data.count("\n\n") < num_events:
        data += next(parts)
    return "".join(f"{event}\n\n" for event in events_of(data)[:num_events])


def told(data: str) -> dict[object, list[object]]:
    """By choice, what a stream says, without what is new for every call: its ids and the time."""
    found: dict[object, list[object]] = {}
    for event in events_of(data):
        text = event.rpartition("data: ")[2]
        if text == "[DONE]":
            found["done"] = [text]
            continue
        fields = json.loads(text)
        for name in ("id", "created"):
            fields.pop(name)
        index = fields["choices"][0]["index"] if fields["choices"] else "end"
        for call in fields["choices"][0]["delta"].get("tool_calls", ()) if fields["choices"] else ():
            call.pop("id", None)
        found.setdefault(index, []).append(fields)
    return found


def without_cached(data: dict[object, list[object]]) -> dict[object, list[object]]:
    """Without what depends on who came first."""
    return json.loads(json.dumps(data).replace('"cached_tokens": 0', '"cached_tokens": 16'))


@pytest.mark.model
def test_another_gateway_goes_on_with_the_streams_of_a_killed_one(services: Services) -> None:
    victim, first_url = services.processes[1], services.base_url
    services.start_gateway()
    services.wait_for_workers(1)
    with (
        httpx.Client(base_url=first_url, timeout=60, headers=READS_IDS) as first,
        httpx.Client(base_url=services.base_url, timeout=60, headers=READS_IDS) as second,
    ):
        path = "/v1/chat/completions"
        undisturbed = {kind: second.post(path, json=BASE | fields).text for kind, fields in KINDS.items()}
        requests = {kind: first.build_request("POST", path, json=BASE | fields) for kind, fields in KINDS.items()}
        # To let go of one of them would be to hang up.
        streams = {kind: first.send(request, stream=True).iter_text() for kind, request in requests.items()}
        seen = {kind: read(parts, NUM_SEEN) for kind, parts in streams.items()}
        services.kill(victim)

        for kind, beginning in seen.items():
            last_id = events_of(beginning)[-1].partition("\n")[0].removeprefix("id: ")
            rest = second.post(path, json=BASE | KINDS[kind], headers={"last-event-id": last_id})
            assert rest.status_code == 200, kind
            found, wanted = told(beginning + rest.text), told(undisturbed[kind])
            assert without_cached(found) == without_cached(wanted), kind
            whole = second.get(f"/v1/streams/{last_id.partition(':')[0]}")
            if kind != "two choices":
                assert beginning + rest.text == whole.text
        gone = second.get("/v1/streams/chatcmpl-0123")
        assert gone.status_code == 404
    services.assert_nothing_is_left()


@pytest.mark.model
def test_openais_client_reads_events_with_ids(services: Services) -> None:
    with openai.OpenAI(base_url=f"{services.base_url}/v1", api_key="x", _strict_response_validation=True) as api:
        chunks = list(api.chat.completions.create(**BASE, extra_headers=READS_IDS))
        whole = api.chat.completions.create(**(BASE | {"stream": False}), extra_headers={"Idempotency-Key": "a"})
        again = api.chat.completions.create(**(BASE | {"stream": False}), extra_headers={"Idempotency-Key": "a"})
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert whole.choices[0].message.content == text
        assert again == whole
