"""All services as processes, and a Redis that crashes and comes back with its data while tokens stream."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from gateway.tokenizers.tokenizer_loading import load_tokenizer
from gpu_worker.fake_runner import fake_token
from shared.checkpoint import resolve
from shared.ids import RequestId
from shared.model_config import ModelConfig
from tests.system.processes import Services

pytestmark = pytest.mark.model

NUM_TOKENS = 600
FAKE_VOCAB_SIZE = 32_000
BODY = {"model": "demo", "prompt": [1, 2, 3], "max_tokens": NUM_TOKENS, "stream": True, "ignore_eos": True}


class Reader:
    """Reads one stream to its end."""

    def __init__(self) -> None:
        self.request_id = ""
        self.text = ""
        self.reason: str | None = None

    async def read(self, http: httpx.AsyncClient) -> None:
        async with http.stream("POST", "/v1/completions", json=BODY) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    assert "error" not in chunk, chunk
                    self.request_id = chunk["id"]
                    self.text += chunk["choices"][0]["text"]
                    self.reason = chunk["choices"][0]["finish_reason"] or self.reason

    async def has_read(self, num_characters: int) -> None:
        async with asyncio.timeout(30):
            while len(self.text) < num_characters:  # noqa: ASYNC110 - they come from another process
                await asyncio.sleep(0.005)


async def test_a_stream_goes_on_exactly_when_redis_stops_or_crashes_and_starts_again(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        server = services.redis_server
        services.start_all(worker_flags=("--runner", "timed", "--max-model-len", "4096"))
        async with httpx.AsyncClient(base_url=services.base_url, timeout=60) as http:
            reader = Reader()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(reader.read(http))
                await reader.has_read(100)
                await asyncio.to_thread(server.restart)
                await reader.has_read(len(reader.text) + 500)
                server.kill()
                await asyncio.to_thread(server.restart)
                assert reader.reason is None, "it ended before Redis was in trouble"
        demo = resolve("demo")
        tokenizer = load_tokenizer(demo, ModelConfig.from_checkpoint(demo))
        tokens = [fake_token(RequestId(reader.request_id), 0, i, FAKE_VOCAB_SIZE) for i in range(NUM_TOKENS)]
        assert reader.reason == "length"
        assert reader.text == tokenizer.decode(tokens)
