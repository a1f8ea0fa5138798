"""All services as processes, and a Redis that comes back with nothing, or with what it knew a while ago."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.tokenizer_loading import load_tokenizer
from shared.checkpoint import Checkpoint
from shared.model_config import ModelConfig
from tests.system.processes import Services
from tests.system.test_services import Stream, run_all, streams, until_under_way

TIMED = ("--runner", "timed", "--max-model-len", "4096")
STALE_S = 0.7


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("services")) as running:
        running.start_all(workers=2, worker_flags=TIMED)
        yield running


@pytest.fixture(scope="module")
def tokenizer(demo: Checkpoint) -> Tokenizer:
    return load_tokenizer(demo, ModelConfig.from_checkpoint(demo))


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=services.base_url, timeout=60) as opened:
        yield opened
    services.assert_nothing_is_left()


def append_only_files(services: Services) -> list[Path]:
    return list(services.redis_server.directory.glob("appendonly*"))


def lose_the_disk(services: Services) -> None:
    services.redis_server.kill()
    for found in append_only_files(services):
        shutil.rmtree(found) if found.is_dir() else found.unlink()
    services.redis_server.restart()


def come_back_as_before(services: Services) -> None:
    """As a replica that takes over: all that was written in the last moments is gone."""
    (found,) = append_only_files(services)
    copy = found.with_name("earlier")
    shutil.copytree(found, copy) if found.is_dir() else shutil.copyfile(found, copy)
    time.sleep(STALE_S)
    services.redis_server.kill()
    shutil.rmtree(found) if found.is_dir() else found.unlink()
    copy.rename(found)
    services.redis_server.restart()


def flush(services: Services) -> None:
    services.redis.flushall()


@pytest.mark.parametrize("trouble", [lose_the_disk, come_back_as_before, flush])
async def test_streams_stay_exact(
    services: Services, client: httpx.AsyncClient, tokenizer: Tokenizer, trouble: Callable[[Services], None]
) -> None:
    started = streams(12, max_tokens=600)
    late = streams(4, max_tokens=100)
    running = asyncio.create_task(run_all(started, client))
    await until_under_way(started)
    troubling = asyncio.create_task(asyncio.to_thread(trouble, services))
    await asyncio.sleep(STALE_S / 2)  # these are lost with their entries, if the server comes back as it was before
    await asyncio.gather(troubling, *(answered(stream, client) for stream in late), running)
    for stream in started + late:
        stream.assert_exact(tokenizer)


async def answered(stream: Stream, client: httpx.AsyncClient) -> None:
    """While Redis is away a request is refused; it may be sent again."""
    while True:
        try:
            return await stream.run(client)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != 503:
                raise
        await asyncio.sleep(0.1)
