"""A log that Redis has cut short, as a replica that takes over does: its writer restores it, or gives its name up."""

from collections.abc import Iterator

import pytest
import redis

from gpu_worker.result_log import KEPT_RESULTS, ResultLog
from shared.errors import SealedError
from shared.ids import SEAL_STEP, StepId, WorkerId
from shared.keys import PoolKeys
from shared.messages import StepResult
from shared.redis_bus import RedisWorkerBus

KEYS = PoolKeys("p")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
def bus(redis_url: str) -> Iterator[RedisWorkerBus]:
    bus = RedisWorkerBus.connect(redis_url, "p")
    yield bus
    bus.close()


def emit(log: ResultLog, steps: range) -> None:
    for step in steps:
        log.emit(StepId(5, step), StepResult(num_tokens=step))


def steps(client: redis.Redis, worker: WorkerId) -> list[int]:
    return [StepId.parse(entry).step for entry, _ in client.xrange(KEYS.results(worker))]


def cut(client: redis.Redis, worker: WorkerId, num_kept: int) -> None:
    """Leave the stream as it was that many entries after its beginning, its last id included."""
    kept = client.xrange(KEYS.results(worker))[:num_kept]
    client.delete(KEYS.results(worker))
    for entry, fields in kept:
        client.xadd(KEYS.results(worker), fields, entry)


@pytest.mark.parametrize("num_kept", [0, 1, 7, 9])
def test_what_the_log_has_lost_is_emitted_again_before_the_next_result(
    client: redis.Redis, bus: RedisWorkerBus, num_kept: int
) -> None:
    worker = bus.register()
    log = ResultLog(bus, worker)
    emit(log, range(1, 10))
    cut(client, worker, num_kept)
    emit(log, range(10, 12))
    assert steps(client, worker) == list(range(1, 12))


def test_a_log_that_has_lost_more_than_is_kept_is_given_up(client: redis.Redis, bus: RedisWorkerBus) -> None:
    worker = bus.register()
    log = ResultLog(bus, worker)
    emit(log, range(1, KEPT_RESULTS + 3))
    cut(client, worker, 2)
    emit(log, range(KEPT_RESULTS + 3, KEPT_RESULTS + 4))
    assert len(steps(client, worker)) == KEPT_RESULTS + 3
    cut(client, worker, 1)
    with pytest.raises(SealedError, match="has lost more"):
        emit(log, range(KEPT_RESULTS + 4, KEPT_RESULTS + 5))


def test_a_log_that_was_sealed_where_it_was_cut_takes_nothing_more(client: redis.Redis, bus: RedisWorkerBus) -> None:
    worker = bus.register()
    log = ResultLog(bus, worker)
    emit(log, range(1, 10))
    cut(client, worker, 5)
    client.xadd(KEYS.results(worker), {"d": b""}, str(StepId(6, SEAL_STEP)))
    with pytest.raises(SealedError):
        emit(log, range(10, 11))
    assert steps(client, worker) == [1, 2, 3, 4, 5, SEAL_STEP]
