"""How long a client waits is its own to say."""

import json
import time

import msgspec
import pytest

from gateway.access.deadlines import MAX_DEADLINE_MS
from gateway.tokenizers.tokenizer import Tokenizer
from tests.gateway.conftest import eventually, running_gateway, says
from tests.gateway.scripted_pool import STATUS
from tests.gateway.test_api import CHAT, endless, silent

BUSY = msgspec.structs.replace(STATUS, num_waiting_tokens=4000, tokens_per_s=1000.0)


async def test_a_request_that_waits_ends_at_its_deadline_and_is_cancelled(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, silent) as gateway:
        began = time.monotonic()
        response = await gateway.http.post("/v1/chat/completions", json=CHAT | {"deadline_ms": 300})
        assert 0.25 < time.monotonic() - began < 5
        assert response.status_code == 504
        error = response.json()["error"]
        assert (error["code"], error["message"]) == (
            "deadline_exceeded",
            "The deadline passed while it waited for its first token.",
        )
        await eventually(lambda: len(gateway.pool.cancels) == 1)
        (submit,) = gateway.pool.submits
        assert submit.deadline_ms - submit.arrived_ms <= 300


async def test_a_stream_that_runs_ends_at_its_deadline_with_an_error_event(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, endless) as gateway:
        gateway.pool.step_s = 0.01
        response = await gateway.http.post(
            "/v1/chat/completions", json=CHAT | {"stream": True}, headers={"X-Deadline-Ms": "300"}
        )
        *_, last, done = [line for line in response.text.splitlines() if line.startswith("data: ")]
        assert done == "data: [DONE]"
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"


async def test_an_answer_in_time_is_an_answer(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("Hi")) as gateway:
        response = await gateway.http.post("/v1/chat/completions", json=CHAT | {"deadline_ms": 60_000})
        assert response.json()["choices"][0]["message"]["content"] == "Hi"
        assert not gateway.pool.cancels


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("Hi")) as gateway:
        gateway.pool.status = BUSY
        monitor = gateway.app._monitor
        await eventually(lambda: monitor.status == BUSY)
        response = await gateway.http.post("/v1/chat/completions", json=CHAT | {"deadline_ms": 3000})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "2"
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("deadline_unreachable", "deadline_ms")
        assert not gateway.pool.submits
        accepted = await gateway.http.post("/v1/chat/completions", json=CHAT | {"deadline_ms": 6000})
        assert accepted.status_code == 200


@pytest.mark.parametrize("value", [0, -1, "5", MAX_DEADLINE_MS + 1])
async def test_a_wrong_deadline_is_named(byte_tokenizer: Tokenizer, value: object) -> None:
    async with running_gateway(byte_tokenizer, says("Hi")) as gateway:
        response = await gateway.http.post("/v1/chat/completions", json=CHAT | {"deadline_ms": value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "deadline_ms")
        if not isinstance(value, str):
            response = await gateway.http.post("/v1/chat/completions", json=CHAT, headers={"x-deadline-ms": f"{value}"})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "x-deadline-ms")
