"""`pagestream status` on a real Redis."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import redis

from pagestream.cli import main
from shared.ids import StepId
from shared.messages import PoolStatus, WorkerCapabilities, WorkerStatus, encode
from shared.redis_bus import RedisWorkerBus
from shared.redis_server import RedisServer
from tests.system.processes import KEYS

CAPABILITIES = WorkerCapabilities(
    model="tiny", block_size=16, num_blocks=64, max_model_len=256, max_num_seqs=8, max_num_batched_tokens=64
)


@pytest.fixture
def worker(redis_url: str) -> Iterator[RedisWorkerBus]:
    bus = RedisWorkerBus.connect(redis_url, "default")
    yield bus
    bus.close()


def _beat(worker: RedisWorkerBus, host: str) -> None:
    status = WorkerStatus(
        worker_id=worker.register(), capabilities=CAPABILITIES, last_step=StepId(5, 3), num_queued_plans=1, host=host
    )
    worker.heartbeat(status)


def _lead(redis_url: str) -> None:

    with redis.Redis.from_url(redis_url, protocol=2) as client:
        client.set(KEYS.status, encode(PoolStatus(epoch=5, model="tiny", num_workers=1, num_running=2)))


def test_without_a_leader_it_fails_and_says_so(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--redis-url", redis_url]) == 1

    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "pagestream: error: no scheduler leads pool default\n")


def test_people_see_the_pool_and_a_row_for_each_worker(
    redis_url: str, worker: RedisWorkerBus, capsys: pytest.CaptureFixture[str]
) -> None:
    _lead(redis_url)
    _beat(worker, "here")
    _beat(worker, "there")

    assert main(["status", "--redis-url", redis_url]) == 0
    summary, heading, *rows = capsys.readouterr().out.splitlines()
    assert summary.startswith("tiny: 1 workers, 2 sequences running, 0 waiting, ")
    assert heading.split()[:2] == ["worker", "host"]
    assert {row.split()[1] for row in rows} == {"here", "there"}


def test_programs_get_json(redis_url: str, worker: RedisWorkerBus, capsys: pytest.CaptureFixture[str]) -> None:
    _beat(worker, "here")

    assert main(["status", "--json", "--redis-url", redis_url]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["scheduler"] is None
    assert [(seen["host"], seen["last_step"], seen["num_queued_plans"]) for seen in found["workers"]] == [
        ("here", [5, 3], 1)
    ]


@pytest.mark.parametrize(("asked", "status"), [("here", 0), ("there", 1), (".", 1)])
def test_a_worker_is_found_by_its_host_alone_whoever_leads(
    redis_url: str, worker: RedisWorkerBus, asked: str, status: int
) -> None:
    _beat(worker, "here")

    assert main(["status", "--redis-url", redis_url, "--worker-on", asked]) == status


def test_a_dot_is_this_host(redis_url: str, worker: RedisWorkerBus) -> None:
    _beat(worker, socket.gethostname())

    assert main(["status", "--redis-url", redis_url, "--worker-on", "."]) == 0


def test_a_redis_that_never_answers_is_given_up_after_three_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started_at = time.monotonic()
        assert main(["status", "--redis-url", f"redis://127.0.0.1:{silent.getsockname()[1]}"]) == 1
        assert time.monotonic() - started_at < 4
    assert capsys.readouterr().err == "pagestream: error: Redis does not answer within 3 s\n"


def test_it_starts_without_what_services_load() -> None:
    with RedisServer() as server:
        script = (
            "import sys; from pagestream.cli import main\n"
            f"main(['status', '--redis-url', {server.url!r}])\n"
            "print({'torch', 'fastapi', 'transformers', 'uvicorn'} & sys.modules.keys())"
        )
        loaded = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert loaded == "set()\n"
