"""All services as processes on a real Redis, with fake workers: what a client sees while things go wrong."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable, Iterator

import httpx
import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.tokenizer_loading import load_tokenizer
from gpu_worker.fake_runner import fake_token
from shared.checkpoint import Checkpoint
from shared.ids import RequestId
from shared.messages import StepResult
from shared.model_config import ModelConfig
from shared.packing import unpack_u32
from tests.system.processes import FAKE, KEYS, Services

VOCAB_SIZE = 32_000


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("services")) as running:
        running.start_all(workers=2)
        yield running


@pytest.fixture(scope="module")
def tokenizer(demo: Checkpoint) -> Tokenizer:
    return load_tokenizer(demo, ModelConfig.from_checkpoint(demo))


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=services.base_url, timeout=60, limits=limits) as opened:
        yield opened
    services.assert_nothing_is_left()


class Stream:
    """One streamed completion of a fake worker."""

    def __init__(self, *, max_tokens: int, prompt: list[int]) -> None:
        self.max_tokens = max_tokens
        self.prompt = prompt
        self.request_id = ""
        self.text = ""
        self.finish: str | None = None

    async def run(self, client: httpx.AsyncClient) -> None:
        body = {"model": "demo", "prompt": self.prompt, "max_tokens": self.max_tokens, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    self._take(json.loads(line.removeprefix("data: ")))

    def _take(self, chunk: dict[str, object]) -> None:
        assert "error" not in chunk, chunk
        self.request_id = str(chunk["id"])
        (choice,) = chunk["choices"]  # type: ignore[misc]
        self.text += choice["text"]
        self.finish = choice["finish_reason"] or self.finish

    def assert_exact(self, tokenizer: Tokenizer) -> None:
        ids = [fake_token(RequestId(self.request_id), 0, index, VOCAB_SIZE) for index in range(self.max_tokens)]
        assert self.text == tokenizer.decode(ids)
        assert self.finish == "length"


def streams(count: int, *, max_tokens: int) -> list[Stream]:
    return [Stream(max_tokens=max_tokens, prompt=[index + 1, 2, 3, 4]) for index in range(count)]


async def run_all(started: list[Stream], client: httpx.AsyncClient, trouble: asyncio.Task[None] | None = None) -> None:
    async with asyncio.TaskGroup() as tasks:
        for stream in started:
            tasks.create_task(stream.run(client))
    if trouble:
        trouble.cancel()


async def until_under_way(started: list[Stream]) -> None:
    async with asyncio.timeout(30):
        while not all(stream.text for stream in started):  # noqa: ASYNC110 - they wait for a real process
            await asyncio.sleep(0.005)


async def test_streams_stay_exact_while_their_subscriptions_are_cut(
    services: Services, client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    started = streams(20, max_tokens=1000)
    randomness, cuts = random.Random(1), 0

    async def cut() -> None:
        nonlocal cuts
        while True:
            await asyncio.sleep(randomness.uniform(0.02, 0.2))
            cuts += int(services.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))

    await run_all(started, client, asyncio.create_task(cut()))
    for stream in started:
        stream.assert_exact(tokenizer)
    assert cuts > 5


async def test_streams_of_a_killed_worker_go_on_with_exactly_their_tokens(
    services: Services, client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    victim = services.start("worker", "demo", *FAKE)
    services.wait_for_workers(3)
    started = streams(24, max_tokens=1000)
    running = asyncio.create_task(run_all(started, client))
    await until_under_way(started)
    services.kill(victim)
    await running
    for stream in started:
        stream.assert_exact(tokenizer)


async def test_streams_go_on_after_the_scheduler_was_killed(
    services: Services, client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    scheduler = services.processes[0]
    started = streams(12, max_tokens=1000)
    running = asyncio.create_task(run_all(started, client))
    await until_under_way(started)
    services.kill(scheduler)
    services.processes[0] = services.start("scheduler")
    await running
    for stream in started:
        stream.assert_exact(tokenizer)


async def test_a_new_scheduler_goes_on_although_no_log_reaches_back_to_the_first_tokens(
    services: Services, client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    started = streams(4, max_tokens=4000)
    running = asyncio.create_task(run_all(started, client))
    while len(kept := services.kept_outputs()) < len(started):  # noqa: ASYNC110 - a real process keeps them
        await asyncio.sleep(0.01)
    services.kill(services.processes[0])
    old, num_kept = services.writers(), min(map(len, kept))
    for writer in old:
        is_needed = (entry for entry, result in services.results(writer).items() if num_kept in indices([result]))
        if first := next(is_needed, None):
            services.redis.xtrim(KEYS.results(writer), minid=first, approximate=False)
    services.processes[0] = services.start("scheduler")
    await running
    for stream in started:
        stream.assert_exact(tokenizer)
    new = set(services.writers()) - set(old)
    assert min(index for writer in new for index in indices(services.results(writer).values())) >= num_kept


def indices(results: Iterable[StepResult]) -> list[int]:
    """Places in their outputs at which the results' tokens begin."""
    return [index for result in results for batch in result.batches for index in unpack_u32(batch.indices)]


async def test_two_hundred_clients_that_hang_up_leave_nothing_behind(
    services: Services, client: httpx.AsyncClient
) -> None:
    randomness = random.Random(2)

    async def hang_up_soon(stream: bool) -> None:
        body = {
            "model": "demo",
            "prompt": [randomness.randrange(100, 200) for _ in range(randomness.randrange(1, 600))],
            "max_tokens": 3000,
            "n": randomness.choice([1, 1, 3]),
            "stream": stream,
        }
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.post("/v1/completions", json=body), randomness.uniform(0.01, 2.0))

    async with asyncio.TaskGroup() as tasks:
        for index in range(200):
            tasks.create_task(hang_up_soon(index % 2 == 0))
