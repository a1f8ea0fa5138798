"""Streams that are gone on with, on one gateway: its own streams are followed as any other's are."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.access.keyring import digest
from gateway.resumption.event_id import EventId, EventNumbers, parse_counts
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import InvalidRequestError
from shared.messages import Submit
from tests.gateway.conftest import EOS, Running, eventually, running_gateway, says

TEXT = "It was a dark and stormy night, the Captain said to his mate: «Tell us a tale!» 🌊"
READS_IDS = {"accept": "text/event-stream"}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


class Gate:
    """An answer that stops after so many tokens, until it is opened."""

    def __init__(self, text: str, stop: int) -> None:
        self._tokens = [*text.encode(), EOS]
        self.stop: int | None = stop

    def __call__(self, _submit: Submit, _choice: int, position: int) -> int | None:
        return None if self.stop is not None and position >= self.stop else self._tokens[position]


def events_of(data: str) -> list[str]:
    return [event for event in data.split("\n\n") if event]


def id_of(event: str) -> str:
    return event.partition("\n")[0].removeprefix("id: ")


async def begin(gateway: Running, num_events: int, headers: dict[str, str] | None = None, **fields: object) -> str:
    """Read so many events of a new stream, and hang up."""
    data = ""
    async with gateway.http.stream(
        "POST", "/v1/chat/completions", json=CHAT | fields, headers=READS_IDS | (headers or {})
    ) as made:
        async for part in made.aiter_text():
            data += part
            if data.count("\n\n") >= num_events:
                break
    return "".join(f"{event}\n\n" for event in events_of(data)[:num_events])


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 2},
        {"logprobs": True, "top_logprobs": 2},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"stop": ["his mate"], "return_token_ids": True},
        {"echo": True, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once"}]},
    ],
)
async def test_a_stream_goes_on_where_its_client_was(byte_tokenizer: Tokenizer, fields: dict[str, object]) -> None:
    gate = Gate(TEXT, 20)
    async with running_gateway(byte_tokenizer, gate) as gateway:
        gateway.pool.step_s = 0.002
        first = await begin(gateway, 9, {"idempotency-key": "a"}, **fields)
        gate.stop = None
        last_id = id_of(events_of(first)[-1])
        rest = await gateway.http.post("/v1/chat/completions", headers={"last-event-id": last_id})
        assert rest.status_code == 200
        whole = await gateway.http.get(f"/v1/streams/{last_id.partition(':')[0]}")
        assert whole.text.endswith("data: [DONE]\n\n")
        assert by_choice(first + rest.text) == by_choice(whole.text)
        again = await gateway.http.get(f"/v1/streams/{last_id.partition(':')[0]}", headers={"last-event-id": last_id})
        assert by_choice(first + again.text) == by_choice(whole.text)
        assert not gateway.pool.cancels or fields.get("stop")


def by_choice(data: str) -> dict[object, list[object]]:
    """The events of each choice, without ids, which count the others, too; and usage where others count, too."""
    found: dict[object, list[object]] = {}
    for event in events_of(data):
        body = event.rpartition("data: ")[2]
        if body == "[DONE]":
            found.setdefault("done", []).append(body)
            continue
        fields = json.loads(body)
        found.setdefault(fields["choices"][0]["index"] if fields["choices"] else "end", []).append(fields)
    return found


@pytest.mark.parametrize("headers", [READS_IDS, {"accept": "*/*"}])
async def test_an_answer_of_one_choice_is_the_same_bytes(byte_tokenizer: Tokenizer, headers: dict[str, str]) -> None:
    gate = Gate(TEXT, 30)
    async with running_gateway(byte_tokenizer, gate) as gateway:
        gateway.pool.step_s = 0.002
        first = await begin(gateway, 25, {"idempotency-key": "a"} | headers)
        gate.stop = None
        stream_id = json.loads(events_of(first)[-1].rpartition("data: ")[2])["id"]
        line = events_of(first)[-1].partition("\n")[0]
        assert line == f"id: {stream_id}:25" if headers == READS_IDS else line.startswith("data: ")
        rest = await gateway.http.get(f"/v1/streams/{stream_id}?from=25", headers=headers)
        whole = await gateway.http.get(f"/v1/streams/{stream_id}", headers=headers)
        assert first + rest.text == whole.text
        text = "".join(
            json.loads(event.rpartition("data: ")[2])["choices"][0]["delta"].get("content", "")
            for event in events_of(whole.text)[:-1]
        )
        assert text == TEXT


async def test_who_hangs_up_without_a_key_does_not_come_back(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, Gate(TEXT, 20)) as gateway:
        gateway.pool.step_s = 0.002
        first = await begin(gateway, 9)
        await eventually(lambda: len(gateway.pool.cancels) == 1)
        answer = await gateway.http.get(f"/v1/streams/{id_of(events_of(first)[-1]).partition(':')[0]}")
        assert answer.status_code == 404


async def test_who_has_a_key_is_waited_for_and_no_longer(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, Gate(TEXT, 20), resume_grace_s=0.3) as gateway:
        gateway.pool.step_s = 0.002
        await begin(gateway, 9, {"idempotency-key": "a"})
        await asyncio.sleep(0.15)
        assert not gateway.pool.cancels
        await eventually(lambda: len(gateway.pool.cancels) == 1)
        await begin(gateway, 9, {"idempotency-key": "a"})
        assert len(gateway.pool.submits) == 2


async def test_a_call_that_is_made_again_is_the_same_call(byte_tokenizer: Tokenizer) -> None:
    gate = Gate(TEXT, 20)
    async with running_gateway(byte_tokenizer, gate) as gateway:
        gateway.pool.step_s = 0.002
        body = CHAT | {"stream": False}
        headers = {"idempotency-key": "k" * 255}
        first = asyncio.create_task(gateway.http.post("/v1/chat/completions", json=body, headers=headers))
        await eventually(lambda: len(gateway.pool.submits) == 1)
        first.cancel()
        gate.stop = None
        second = await gateway.http.post("/v1/chat/completions", json=body, headers=headers)
        third = await gateway.http.post("/v1/chat/completions", json=body, headers=headers)
        assert second.json()["choices"][0]["message"]["content"] == TEXT
        assert second.content == third.content
        assert third.headers["idempotent-replayed"] == "true"
        assert len(gateway.pool.submits) == 1
        other = await gateway.http.post("/v1/chat/completions", json=body | {"seed": 1}, headers=headers)
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
        wrong = await gateway.http.post("/v1/chat/completions", json=body, headers={"idempotency-key": ""})
        assert wrong.status_code == 400


async def test_calls_at_the_same_time_with_one_key_are_computed_once(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says(TEXT)) as gateway:
        posts = [
            gateway.http.post(
                "/v1/completions", json={"model": "tiny", "prompt": "x"}, headers={"idempotency-key": "a"}
            )
            for _ in range(4)
        ]
        answers = await asyncio.gather(*posts)
        assert {answer.status_code for answer in answers} <= {200, 409}
        assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
        assert len(gateway.pool.submits) == 1


async def test_streams_and_keys_belong_to_the_owner_of_an_api_key(byte_tokenizer: Tokenizer, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text("".join(f'[[key]]\nname = "{name}"\nsha256 = "{digest(name)}"\n' for name in ("one", "two")))
    async with running_gateway(byte_tokenizer, says(TEXT), api_key_file=str(keys)) as gateway:
        one, two = (READS_IDS | {"authorization": f"Bearer {name}"} for name in ("one", "two"))
        whole = await gateway.http.post("/v1/chat/completions", json=CHAT, headers=one | {"idempotency-key": "a"})
        stream_id = id_of(events_of(whole.text)[0]).partition(":")[0]
        assert (await gateway.http.get(f"/v1/streams/{stream_id}", headers=one)).text == whole.text
        assert (await gateway.http.get(f"/v1/streams/{stream_id}", headers=two)).status_code == 404
        other = await gateway.http.post("/v1/chat/completions", json=CHAT, headers=two | {"idempotency-key": "a"})
        assert id_of(events_of(other.text)[0]).partition(":")[0] != stream_id


async def test_openais_client_reads_streams_whose_events_have_ids(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says(TEXT)) as gateway:
        client = openai.AsyncOpenAI(base_url=f"{gateway.base_url}/v1", api_key="x", _strict_response_validation=True)
        async with client, await client.chat.completions.create(**CHAT) as stream:
            chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT


@pytest.mark.parametrize("text", ["", "7", ":7", "a:", "a:x", "a:1..2", "a:-1"])
def test_what_is_no_event_id_is_told_so(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="Last-Event-ID"):
        EventId.parse(text)


def test_an_event_id_counts_the_events_of_each_choice() -> None:
    numbers = EventNumbers("cmpl-1", 2, seen=(1,))
    events = [numbers.numbered(choice, b"data: x\n\n") for choice in (0, 1, 0)]
    assert events == [b"", b"id: cmpl-1:1.1\ndata: x\n\n", b"id: cmpl-1:2.1\ndata: x\n\n"]
    assert EventId.parse("cmpl-1:2.1") == ("cmpl-1", (2, 1))
    assert parse_counts("7", "from") == (7,)
