import asyncio
import json
import re
from itertools import pairwise

import msgspec
import openai
import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from shared.memory_bus import MemoryBus
from shared.messages import Fault, PoolStatus
from tests.gateway.conftest import EOS, Running, eventually, running_gateway, says
from tests.gateway.scripted_pool import STATUS

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


def endless(_submit: object, _choice: int, _position: int) -> int:
    return ord("x")


def silent(_submit: object, _choice: int, _position: int) -> None:
    return None


def client(gateway: Running, **options: object) -> openai.AsyncOpenAI:
    base_url = f"{gateway.base_url}/v1"
    return openai.AsyncOpenAI(
        **({"base_url": base_url, "api_key": "none", "max_retries": 0, "_strict_response_validation": True} | options)
    )


def events(body: str) -> list[dict]:
    lines = [re.sub(r"\Aid: \S+\n", "", line) for line in body.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_a_chat_as_curl_sends_it(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("Grüß Gott 🎉")) as gateway:
        response = await gateway.http.post("/v1/chat/completions", json=CHAT)
        assert response.status_code == 200
        body = response.json()
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "Grüß Gott 🎉"}
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["object"] == "chat.completion"
        assert body["id"].startswith("chatcmpl-")
        num_prompt = len("<user\nHi>\n<assistant\n")
        num_output = len("Grüß Gott 🎉".encode()) + 1
        assert body["usage"] == {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_output,
            "total_tokens": num_prompt + num_output,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


async def test_a_chat_as_the_openai_client_streams_it(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("Grüß Gott 🎉")) as gateway, client(gateway) as api:
        stream = await api.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
        assert deltas[0].role == "assistant"
        assert "".join(delta.content or "" for delta in deltas) == "Grüß Gott 🎉"
        assert all("\ufffd" not in (delta.content or "") for delta in deltas)
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-2:] == [None, "stop"]
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == len("Grüß Gott 🎉".encode()) + 1
        assert len({chunk.id for chunk in chunks}) == 1


async def test_a_completion_as_the_openai_client_asks_for_it(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway, client(gateway) as api:
        whole = await api.completions.create(model="tiny", prompt=["one", "two"], n=2)
        assert [(c.index, c.text, c.finish_reason) for c in whole.choices] == [(i, "abc", "stop") for i in range(4)]
        assert whole.usage.prompt_tokens == 6
        assert whole.usage.completion_tokens == 16

    # Strictly, the client's type for this endpoint does not allow the null finish_reason that OpenAI's own chunks have.
    options = {"_strict_response_validation": False}
    async with running_gateway(byte_tokenizer, says("abc")) as gateway, client(gateway, **options) as api:
        stream = await api.completions.create(model="tiny", prompt="one", stream=True)
        chunks = [chunk.choices[0] async for chunk in stream]
        assert "".join(chunk.text for chunk in chunks) == "abc"
        assert chunks[-1].finish_reason == "stop"


async def test_a_completion_streams_text(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        response = await gateway.http.post("/v1/completions", json={"model": "tiny", "prompt": "x", "stream": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = events(response.text)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "abc"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert all("usage" not in chunk for chunk in chunks)


async def test_choices_differ_and_keep_apart(byte_tokenizer: Tokenizer) -> None:
    def answer(_submit: object, choice: int, position: int) -> int:
        return EOS if position > 4 + choice else ord("a") + choice

    async with running_gateway(byte_tokenizer, answer) as gateway:
        whole = (await gateway.http.post("/v1/chat/completions", json=CHAT | {"n": 3})).json()
        texts = ["aaaaa", "bbbbbb", "ccccccc"]
        assert [choice["message"]["content"] for choice in whole["choices"]] == texts
        streamed = await gateway.http.post("/v1/chat/completions", json=CHAT | {"n": 3, "stream": True})
        parts = ["", "", ""]
        for chunk in events(streamed.text):
            parts[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content", "")
        assert parts == texts
        assert gateway.pool.cancels == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stop_string_that_spans_tokens_ends_the_text_and_cancels_the_rest(
    byte_tokenizer: Tokenizer, stream: bool
) -> None:
    def answer(_submit: object, choice: int, position: int) -> int:
        return b"one END two"[position % 11] if choice == 0 else (ord("y") if position < 5 else EOS)

    async with running_gateway(byte_tokenizer, answer) as gateway:
        fields = {"n": 2, "stop": ["ENDE", "END"]}
        if stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        response = await gateway.http.post("/v1/chat/completions", json=CHAT | fields)
        if stream:
            chunks = events(response.text)
            first = [c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == 0]
            text, reason = "".join(c["delta"].get("content", "") for c in first), first[-1]["finish_reason"]
            usage = chunks[-1]["usage"]
        else:
            body = response.json()
            text, reason = body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]
            usage = body["usage"]
        assert (text, reason) == ("one ", "stop")
        assert usage["completion_tokens"] == len("one END") + 6
        await eventually(lambda: [(c.reason, c.choice) for c in gateway.pool.cancels] == [("stop", 0)])


async def test_the_length_limit_is_told(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, endless) as gateway:
        body = (await gateway.http.post("/v1/chat/completions", json=CHAT | {"max_tokens": 5})).json()
        assert (body["choices"][0]["message"]["content"], body["choices"][0]["finish_reason"]) == ("xxxxx", "length")


async def test_prefix_hits_are_told(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        gateway.pool.num_cached_tokens = 16
        body = {"model": "tiny", "prompt": ["x" * 20, "y" * 20], "n": 2}
        usage = (await gateway.http.post("/v1/completions", json=body)).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 32


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_cancels_its_request(byte_tokenizer: Tokenizer, stream: bool) -> None:
    async with running_gateway(byte_tokenizer, silent) as gateway:
        posting = asyncio.create_task(gateway.http.post("/v1/chat/completions", json=CHAT | {"stream": stream}))
        await eventually(lambda: len(gateway.pool.submits) == 1)
        posting.cancel()
        await eventually(lambda: len(gateway.pool.cancels) == 1)
        (cancel,) = gateway.pool.cancels
        assert (cancel.reason, cancel.choice) == ("disconnect", None)
        assert cancel.request_id == gateway.pool.submits[0].request_id
        await eventually(lambda: not gateway.app.token_router._streams)


async def test_a_lossy_bus_is_not_noticed(byte_tokenizer: Tokenizer) -> None:
    bus = MemoryBus(drop=lambda batch: batch.step.step % 3 == 0)
    async with running_gateway(byte_tokenizer, says("Grüß Gott " * 15), bus) as gateway:
        responses = await asyncio.gather(*(gateway.http.post("/v1/chat/completions", json=CHAT) for _ in range(4)))
        assert [r.json()["choices"][0]["message"]["content"] for r in responses] == ["Grüß Gott " * 15] * 4


BAD_BODIES = {
    "malformed JSON": (b"{", 400, None),
    "invalid UTF-8": (b'{"model": "tiny", "messages": [{"role": "user", "content": "\xff"}]}', 400, None),
    "wrong type": (CHAT | {"temperature": "hot"}, 400, "temperature"),
    "unknown model": (CHAT | {"model": "huge"}, 404, "model"),
    "empty messages": (CHAT | {"messages": []}, 400, "messages"),
    "unknown role": (CHAT | {"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role"),
    "template refuses": (CHAT | {"messages": [{"role": "function", "content": "x"}]}, 400, "messages"),
    "prompt too long": (CHAT | {"messages": [{"role": "user", "content": "x" * 300}]}, 400, "messages"),
    "NaN": (json.dumps(CHAT | {"temperature": float("nan")}).encode(), 400, "temperature"),
    "negative temperature": (CHAT | {"temperature": -1}, 400, "temperature"),
    "negative max_tokens": (CHAT | {"max_tokens": -5}, 400, "max_tokens"),
    "10,000 stop strings": (CHAT | {"stop": ["x"] * 10_000}, 400, "stop"),
    "tools": (CHAT | {"tools": [{"type": "custom", "function": {"name": "f"}}]}, 400, "tools[0].type"),
    "5 MB": (json.dumps(CHAT | {"user": "x" * 5_000_000}).encode(), 413, None),
}


async def test_bad_input_gets_an_error_object_and_leaves_nothing_behind(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("fine")) as gateway:
        for name, (body, status, param) in BAD_BODIES.items():
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            for extra in ({}, {"expect": "100-continue"}):
                response = await gateway.http.post("/v1/chat/completions", content=content, headers=extra)
                error = response.json()["error"]
                assert response.status_code == status, name
                assert set(error) == {"message", "type", "param", "code"}
                assert (error["type"], error["param"]) == ("invalid_request_error", param), name
                assert "Traceback" not in response.text
        for prompt in ([9999], [-1], "", [], "x" * 300):
            response = await gateway.http.post("/v1/completions", json={"model": "tiny", "prompt": prompt})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
        assert gateway.pool.submits == []
        assert gateway.pool.cancels == []
        response = await gateway.http.post("/v1/chat/completions", json=CHAT)
        assert response.json()["choices"][0]["message"]["content"] == "fine"


async def test_a_body_of_unknown_length_is_refused_before_its_end_has_come(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, silent, max_body_bytes=200_000) as gateway:
        host, port = gateway.base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"30D40\r\n" + b"x" * 0x30D40 + b"\r\n" + b"1\r\nx\r\n")
        async with asyncio.timeout(5):
            assert await reader.readline() == b"HTTP/1.1 413 Request Entity Too Large\r\n"
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2/x", 404), ("GET", "/v1/completions", 405), ("GET", "/v1/models/x", 404)]
)
async def test_unknown_routes_methods_and_models_get_an_error_object(
    byte_tokenizer: Tokenizer, method: str, path: str, status: int
) -> None:
    async with running_gateway(byte_tokenizer, silent) as gateway:
        response = await gateway.http.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["message"]


async def test_the_openai_client_raises_its_own_errors(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, silent, api_keys=("sk-right",)) as gateway:
        message = {"role": "user", "content": "Hi"}
        async with client(gateway, api_key="sk-wrong") as api:
            with pytest.raises(openai.AuthenticationError) as wrong_key:
                await api.chat.completions.create(model="tiny", messages=[message])
            assert wrong_key.value.code == "invalid_api_key"
        async with client(gateway, api_key="sk-right") as api:
            with pytest.raises(openai.NotFoundError) as wrong_model:
                await api.chat.completions.create(model="huge", messages=[message])
            assert wrong_model.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError) as too_long:
                await api.completions.create(model="tiny", prompt=[5] * 300)
            assert too_long.value.code == "context_length_exceeded"
            assert [model.id async for model in await api.models.list()] == ["tiny"]
        assert (await gateway.http.get("/health")).status_code == 200
        assert (await gateway.http.get("/v1/models")).status_code == 401


async def test_a_full_queue_is_refused_at_once_with_a_time_to_retry(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, silent, max_num_queued_reqs=2) as gateway:
        waiting = [asyncio.create_task(gateway.http.post("/v1/chat/completions", json=CHAT)) for _ in range(2)]
        await eventually(lambda: len(gateway.pool.submits) == 2)
        response = await gateway.http.post("/v1/chat/completions", json=CHAT)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "rate_limit_error"
        for task in waiting:
            task.cancel()
        await eventually(lambda: not gateway.app.token_router._streams)


async def test_prompts_that_found_room_are_cancelled_when_the_next_one_does_not(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, silent, max_num_queued_reqs=2) as gateway:
        response = await gateway.http.post("/v1/completions", json={"model": "tiny", "prompt": ["a", "b", "c"]})
        assert response.status_code == 429
        await eventually(lambda: len(gateway.pool.cancels) == 3)


async def test_a_fault_is_an_http_error_or_an_error_event(byte_tokenizer: Tokenizer) -> None:
    def answer(_submit: object, _choice: int, position: int) -> int | Fault:
        return ord("a") if position < 3 else Fault(0, 503, "no worker has room for it")

    async with running_gateway(byte_tokenizer, answer) as gateway:
        whole = await gateway.http.post("/v1/chat/completions", json=CHAT)
        assert (whole.status_code, whole.json()["error"]["message"]) == (503, "no worker has room for it")
        streamed = events((await gateway.http.post("/v1/chat/completions", json=CHAT | {"stream": True})).text)
        assert streamed[-1]["error"] == {
            "message": "no worker has room for it",
            "type": "server_error",
            "param": None,
            "code": None,
        }


async def test_an_unexpected_exception_shows_nothing_of_its_inside(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_gateway(byte_tokenizer, silent) as gateway:
        monkeypatch.setattr(Tokenizer, "encode", lambda *_, **__: 1 / 0)
        response = await gateway.http.post("/v1/chat/completions", json=CHAT)
        assert response.status_code == 500
        assert response.json()["error"]["type"] == "server_error"
        assert "division" not in response.text
        assert "ZeroDivisionError" in caplog.text


async def test_a_request_id_is_echoed_or_made(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("a")) as gateway:
        given = await gateway.http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "mine"})
        assert given.headers["x-request-id"] == "mine"
        made = await gateway.http.post("/v1/chat/completions", json=CHAT)
        assert made.json()["id"] == f"chatcmpl-{made.headers['x-request-id']}"
        failed = await gateway.http.post("/v1/chat/completions", content=b"{", headers={"x-request-id": "mine"})
        assert failed.headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (None, "no scheduler leads the pool"),
        (msgspec.structs.replace(STATUS, num_workers=0), "no live worker"),
        (msgspec.structs.replace(STATUS, stalled_s=45.0), "no result for 45 s while work is under way"),
    ],
)
async def test_health_says_what_is_wrong(byte_tokenizer: Tokenizer, status: PoolStatus | None, reason: str) -> None:
    async with running_gateway(byte_tokenizer, silent) as gateway:
        assert (await gateway.http.get("/health")).json() == {"status": "ok"}
        gateway.pool.status = status
        if status is None:
            gateway.pool.bus._state.status = None

        async def is_unhealthy() -> bool:
            return (await gateway.http.get("/health")).status_code == 503

        await eventually(is_unhealthy)
        assert (await gateway.http.get("/health")).json() == {"status": "unavailable", "reason": reason}
        assert (await gateway.http.get("/ping")).status_code == 200


async def test_metrics_have_vllms_names(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        await gateway.http.post("/v1/chat/completions", json=CHAT)
        text = (await gateway.http.get("/metrics")).text
        labels = '{engine="0",model_name="tiny"}'
        assert f"vllm:generation_tokens_total{labels} 4.0" in text
        assert f"vllm:e2e_request_latency_seconds_count{labels} 1.0" in text
        assert f"vllm:time_to_first_token_seconds_count{labels} 1.0" in text
        assert 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 1.0' in text
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_hits_total"):
            assert f"vllm:{name}" in text


async def test_two_calls_at_once_do_not_mix(byte_tokenizer: Tokenizer) -> None:
    def answer(submit: object, _choice: int, position: int) -> int:
        return EOS if position == 40 else ord("a") + submit.handle % 26

    async with running_gateway(byte_tokenizer, answer) as gateway:
        bodies = [CHAT | {"stream": i % 2 == 0} for i in range(20)]
        responses = await asyncio.gather(*(gateway.http.post("/v1/chat/completions", json=body) for body in bodies))
        texts = [
            "".join(c["choices"][0]["delta"].get("content", "") for c in events(response.text))
            if body["stream"]
            else response.json()["choices"][0]["message"]["content"]
            for body, response in zip(bodies, responses, strict=True)
        ]
        assert all(text == text[0] * 40 for text in texts)
        assert all(a != b for a, b in pairwise(sorted(texts)))


async def test_requests_wait_while_nobody_leads_the_pool(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("late"), max_model_len=200) as gateway:
        gateway.pool.status = None
        body = (await gateway.http.post("/v1/chat/completions", json=CHAT)).json()
        assert body["choices"][0]["message"]["content"] == "late"
