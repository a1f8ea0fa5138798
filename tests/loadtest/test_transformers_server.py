"""The static-batch server as a process of its own, with the demo model, and the client that measures it."""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loadtest.client import OpenAIClient
from loadtest.record import RequestRecord
from loadtest.settings import Target
from loadtest.transformers_peer import generate

pytestmark = pytest.mark.model

MAX_BATCH_SIZE = 4


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ("--port", str(port), "--max-batch-size", str(MAX_BATCH_SIZE), "--gather-ms", "200")
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtest.transformers_server", "demo", *flags], cwd=Path(__file__).parents[2]
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while not _is_up(url):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield url
    process.terminate()
    process.wait(20)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def _complete(server: str, **fields: object) -> httpx.Response:
    body = {"model": "demo", "max_tokens": 4, "temperature": 0, "ignore_eos": True} | fields
    return httpx.post(f"{server}/v1/completions", json=body, timeout=60)


def test_it_names_its_model(server: str) -> None:
    assert [card["id"] for card in httpx.get(f"{server}/v1/models").json()["data"]] == ["demo"]


def test_an_answer_in_a_padded_batch_is_transformers_own(server: str, demo_oracle, demo_tokenizer) -> None:
    prompts = [demo_tokenizer.encode("The capital of France is"), demo_tokenizer.encode("One, two, three, four, five,")]
    expected = [generate(demo_oracle, [ids], max_tokens=8, ignore_eos=True)[0] for ids in prompts]

    async def both() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server, timeout=60) as http:
            body = {"model": "demo", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
            return await asyncio.gather(*(http.post("/v1/completions", json=body | {"prompt": ids}) for ids in prompts))

    answers = [response.json() for response in asyncio.run(both())]
    assert [answer["choices"][0]["text"] for answer in answers] == [demo_tokenizer.decode(ids) for ids in expected]
    assert [answer["usage"]["prompt_tokens"] for answer in answers] == [len(ids) for ids in prompts]


def test_requests_that_come_during_a_batch_wait_for_its_end(server: str) -> None:
    records = asyncio.run(_overlapping(server))

    assert [record.error for record in records] == [None] * 6
    assert [record.num_output_tokens for record in records] == [48, 4, 4, 4, 4, 4]
    long, *short = records
    first_batch = [record for record in records if record.chunk_times_s[0] < long.ended_s]
    # The first four make the batch; three of them end long before it does, and the other two begin when it has ended.
    assert len(first_batch) == MAX_BATCH_SIZE
    assert all(record.ended_s < long.chunk_times_s[8] for record in first_batch if record is not long)
    assert sum(record.chunk_times_s[0] > long.ended_s for record in short) == 2


async def _overlapping(server: str) -> list[RequestRecord]:
    client = OpenAIClient(Target(base_url=server))

    async def send(max_tokens: int, delay_s: float) -> RequestRecord:
        await asyncio.sleep(delay_s)
        return await client.complete(
            [{"role": "user", "content": "Once upon a time"}],
            model="demo",
            max_tokens=max_tokens,
            num_prompt_tokens=4,
            sampling={"temperature": 0, "ignore_eos": True},
            due_s=time.perf_counter(),
        )

    try:
        # In this order: a connection is opened for each, so that they arrive as they are sent.
        return await asyncio.gather(*(send(max_tokens, 0.01 * i) for i, max_tokens in enumerate([48, 4, 4, 4, 4, 4])))
    finally:
        client.close()


def test_an_end_token_ends_an_answer_unless_it_is_to_be_ignored(server: str, demo_tokenizer) -> None:
    prompt = "<|im_start|>user\nSay hi.<|im_end|>\n<|im_start|>assistant\n"
    ended = _complete(server, prompt=prompt, max_tokens=200, ignore_eos=False).json()

    assert ended["choices"][0]["finish_reason"] == "stop"
    assert ended["usage"]["completion_tokens"] < 200


def test_a_stop_string_ends_an_answer(server: str) -> None:
    answer = _complete(server, prompt="One, two, three, four, five,", max_tokens=40, stop=["seven"]).json()

    assert answer["choices"][0]["text"] == " six, "


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"prompt": "a", "temperature": 1}, "'temperature' is 1.0"),
        ({"prompt": ["a", "b"]}, "one prompt"),
        ({"prompt": "a", "n": 2}, "n=1"),
        ({"prompt": "a", "max_tokens": 10**6}, "maximum context length"),
        ({"prompt": "a", "model": "other"}, "served here: 'demo'"),
    ],
)
def test_what_it_cannot_do_is_refused(server: str, fields: dict, named: str) -> None:
    refused = _complete(server, **fields)

    assert refused.status_code in {400, 404}
    assert named in refused.json()["error"]["message"]


def test_a_client_that_hangs_up_does_not_hold_the_others(server: str) -> None:
    body = {"model": "demo", "prompt": "a", "max_tokens": 4000, "temperature": 0, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server}/v1/completions", json=body, timeout=20) as response:
        assert next(response.iter_lines()).startswith("data: ")
    started_s = time.monotonic()

    assert _complete(server, prompt="b").status_code == 200
    assert time.monotonic() - started_s < 20
