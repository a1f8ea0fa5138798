"""A request that kills every worker, among others that must not notice: real processes, restarted as they die."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.tokenizer_loading import load_tokenizer
from shared.checkpoint import Checkpoint
from shared.model_config import ModelConfig
from tests.system.deadly_worker import DEADLY_TOKEN
from tests.system.processes import FAKE, Services
from tests.system.test_services import Stream, run_all

NUM_INNOCENT = 30
NUM_WORKERS = 3


@pytest.fixture(scope="module")
def tokenizer(demo: Checkpoint) -> Tokenizer:
    return load_tokenizer(demo, ModelConfig.from_checkpoint(demo))


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("poison")) as running:
        running.start("scheduler")
        running.start_gateway()
        yield running


class Supervisor:
    """Starts workers again as they die, and counts."""

    def __init__(self, services: Services) -> None:
        self.num_deaths = 0
        self._services = services
        self._workers = [self._start() for _ in range(NUM_WORKERS)]

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.system.deadly_worker", self._services.redis_server.url]
        process = subprocess.Popen(command)
        self._services.processes.append(process)
        return process

    def stop(self) -> None:
        for worker in self._workers:
            worker.terminate()
            worker.wait(15)

    async def run(self) -> None:
        while True:
            for index, worker in enumerate(self._workers):
                if worker.poll() is not None:
                    assert worker.returncode == 9
                    self.num_deaths += 1
                    self._workers[index] = self._start()
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[None]:
    task = asyncio.create_task(supervisor.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def dlq(services: Services, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pagestream", "dlq", *arguments, "--redis-url", services.redis_server.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


async def test_a_request_that_kills_workers_fails_alone_and_is_kept_with_its_history(
    services: Services, tokenizer: Tokenizer
) -> None:
    supervisor = Supervisor(services)
    services.wait_for_workers(NUM_WORKERS)
    innocent = [Stream(max_tokens=2000, prompt=[1000 + index, 2, 3, 4]) for index in range(NUM_INNOCENT)]
    async with httpx.AsyncClient(base_url=services.base_url, timeout=180) as client, running(supervisor):

        async def be_poison() -> httpx.Response:
            await asyncio.sleep(0.5)
            prompt = [DEADLY_TOKEN, 5, 6]
            return await client.post("/v1/completions", json={"model": "demo", "prompt": prompt, "max_tokens": 20})

        poison = asyncio.create_task(be_poison())
        await run_all(innocent, client)
        answer = await poison
    for stream in innocent:
        stream.assert_exact(tokenizer)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "request_failed_repeatedly"
    assert 3 <= supervisor.num_deaths <= 7
    services.assert_nothing_is_left()

    (line,) = dlq(services, "list", "--json").stdout.splitlines()
    listed = json.loads(line)
    assert listed["cause"] == "kills workers"
    assert len(listed["deaths"]) == supervisor.num_deaths
    shown = dlq(services, "show", listed["id"])
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count(" died (") == supervisor.num_deaths
    assert "while it computed this request alone" in shown.stdout
    assert "prompt_token_ids" not in shown.stdout
    assert str([DEADLY_TOKEN, 5, 6]) in dlq(services, "show", listed["id"], "--prompt").stdout
    missing = dlq(services, "show", "1-1")
    assert (missing.returncode, "no dead letter '1-1'" in missing.stderr) == (1, True)

    supervisor.stop()
    services.start("worker", "demo", *FAKE)
    services.wait_for_workers(1)
    retried = dlq(services, "retry", listed["id"])
    assert "choice 0: 20 output tokens" in retried.stdout, retried.stderr
    assert dlq(services, "list", "--json").stdout == ""
    assert dlq(services, "drop", listed["id"]).stdout == "0 dropped\n"
    services.assert_nothing_is_left()
