"""Who is killed is missed at once: the tests make every lease so long that only a closed connection can tell."""

import time
from collections.abc import Callable, Iterator

import pytest

from shared.ids import SEAL_STEP
from shared.messages import PoolStatus, decode
from tests.system.processes import FAKE, KEYS, Services

LONG_MS = 120_000
LONGEST_S = 60.0
"""Far more than it takes, for machines that are busy; far less than the leases."""


@pytest.fixture
def services(tmp_path) -> Iterator[Services]:
    with Services(tmp_path) as running:
        yield running


def until(services: Services, found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not found():
        assert time.monotonic() < deadline, services.logs()
        time.sleep(0.02)


def epoch_and_workers(services: Services) -> tuple[int, int]:
    data = services.redis.get(KEYS.status)
    status = decode(data, PoolStatus) if data else None
    return (status.epoch, status.num_workers) if status else (0, 0)


def test_a_killed_worker_and_a_killed_leader_are_missed_long_before_their_leases_run_out(services: Services) -> None:
    leader = services.start("scheduler")
    until(services, lambda: bool(services.redis.exists(KEYS.lead)))
    services.start("scheduler")
    victim = services.start("worker", "demo", *FAKE)
    until(services, lambda: epoch_and_workers(services)[1] == 1)
    (name,) = services.live_workers()
    worker = name.removeprefix(KEYS.worker(""))
    services.start("worker", "demo", *FAKE)
    until(services, lambda: epoch_and_workers(services)[1] == 2)
    epoch, _ = epoch_and_workers(services)
    time.sleep(1.0)  # until everybody has seen everybody

    services.kill(victim)
    assert services.redis.pexpire(KEYS.worker(worker), LONG_MS)
    until(services, lambda: services.redis.xinfo_stream(KEYS.plans(worker))["last-generated-id"] == seal(epoch))
    assert services.redis.exists(KEYS.worker(worker))

    services.kill(leader)
    assert services.redis.pexpire(KEYS.lead, LONG_MS)
    assert services.redis.pexpire(KEYS.lead_connection, LONG_MS)
    until(services, lambda: epoch_and_workers(services) > (epoch, 1))
    assert "its connection is closed" in services.logs()


def seal(epoch: int) -> bytes:
    return f"{epoch}-{SEAL_STEP}".encode()
