"""By which connections leases are held, as the server tells it: the real one, and clients that are killed."""

import logging
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
import redis

from shared.held_lease import HeldLease
from shared.ids import BEFORE_FIRST_STEP, WorkerId
from shared.messages import WorkerCapabilities, WorkerStatus
from shared.redis_bus import RedisSchedulerBus, RedisWorkerBus

CAPABILITIES = WorkerCapabilities(
    model="m", block_size=16, num_blocks=64, max_model_len=256, max_num_seqs=8, max_num_batched_tokens=64
)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as opened:
        yield opened


@pytest.fixture
async def leader(redis_url: str) -> AsyncIterator[RedisSchedulerBus]:
    bus = await RedisSchedulerBus.connect(redis_url, "p")
    assert await bus.acquire_lease()
    yield bus
    await bus.close()


@pytest.fixture
async def standby(redis_url: str) -> AsyncIterator[RedisSchedulerBus]:
    bus = await RedisSchedulerBus.connect(redis_url, "p")
    yield bus
    await bus.close()


class Worker:
    def __init__(self, url: str) -> None:
        self.bus = RedisWorkerBus.connect(url, "p")
        self.name = self.bus.register()
        self.beat()

    def beat(self) -> None:
        self.bus.heartbeat(WorkerStatus(worker_id=self.name, capabilities=CAPABILITIES, last_step=BEFORE_FIRST_STEP))


@pytest.fixture
def worker(redis_url: str) -> Iterator[Worker]:
    made = Worker(redis_url)
    yield made
    made.bus.close()


async def sighted(bus: RedisSchedulerBus, *workers: WorkerId) -> HeldLease:
    (lease,) = (await bus.sight_workers(workers)).leases
    return lease


async def test_a_worker_is_connected_until_its_connection_is_closed(leader: RedisSchedulerBus, worker: Worker) -> None:
    assert (await sighted(leader, worker.name)).is_connected
    worker.bus.close()
    lease = await sighted(leader, worker.name)
    assert (lease.holder, lease.is_connected) == (worker.name, False)


async def test_a_worker_notices_a_reset_while_it_is_idle_and_says_its_new_connection(
    leader: RedisSchedulerBus, worker: Worker, client: redis.Redis
) -> None:
    before = await sighted(leader, worker.name)
    assert not worker.bus.is_cut_off
    client.execute_command("CLIENT", "KILL", "ID", before.connection.rpartition(":")[2])
    deadline = time.monotonic() + 5
    while not worker.bus.is_cut_off:
        assert time.monotonic() < deadline
    worker.beat()
    after = await sighted(leader, worker.name)
    assert after.is_connected
    assert after.connection != before.connection


async def test_a_beat_whose_connection_breaks_meanwhile_says_the_one_that_it_went_over(
    leader: RedisSchedulerBus, worker: Worker, client: redis.Redis
) -> None:
    for _ in range(3):
        held = await sighted(leader, worker.name)
        client.execute_command("CLIENT", "KILL", "ID", held.connection.rpartition(":")[2])
        worker.beat()
        assert (await sighted(leader, worker.name)).is_connected


async def test_a_leader_is_deposed_by_the_connection_that_was_seen_and_no_other(
    leader: RedisSchedulerBus, standby: RedisSchedulerBus, client: redis.Redis
) -> None:
    (lease,) = (await standby.sight_leader()).leases
    assert lease.is_connected
    assert 0 <= lease.age_s < 1
    client.execute_command("CLIENT", "KILL", "ID", lease.connection.rpartition(":")[2])
    (missed,) = (await standby.sight_leader()).leases
    assert not missed.is_connected
    assert await leader.acquire_lease()  # it lives, and says its new connection
    await standby.depose(missed)
    assert await standby.acquire_lease() is None

    await leader.close()
    (missed,) = (await standby.sight_leader()).leases
    await standby.depose(missed)
    assert await standby.acquire_lease()
    assert await leader.acquire_lease() is None


async def test_a_lease_held_on_another_server_process_is_not_judged(
    leader: RedisSchedulerBus, worker: Worker, client: redis.Redis
) -> None:
    (key,) = client.scan_iter("*wc:*")
    client.set(key, "another:1", px=3000)
    assert (await leader.sight_workers([worker.name])).leases == ()


@pytest.mark.parametrize("forbidden", ["client|list", "client|id"])
async def test_where_connections_may_not_be_seen_leases_count_alone_and_that_is_said_once(
    forbidden: str, redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    others = {"client|list", "client|id"} - {forbidden}
    rules = ("on", ">secret", "~*", "&*", "+@all", "-client", "+client|setname", "+client|setinfo")
    client.execute_command("ACL", "SETUSER", "little", "reset", *rules, *(f"+{command}" for command in others))
    url = f"unix://little:secret@{urlsplit(redis_url).path}"
    scheduler, worker = await RedisSchedulerBus.connect(url, "p"), Worker(url)
    with caplog.at_level(logging.INFO):
        assert await scheduler.acquire_lease()
        for _ in range(3):
            assert (await scheduler.sight_workers([worker.name])).view == ""
    (record,) = (record for record in caplog.records if "lease" in record.message)
    assert record.levelno == logging.WARNING
    assert worker.name in await scheduler.workers()
    worker.bus.close()
    await scheduler.close()
