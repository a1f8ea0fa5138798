import time

import pytest

from shared.errors import BusUnavailableError
from shared.ids import StepId
from shared.messages import PoolStatus, WorkerCapabilities, WorkerStatus
from shared.redis_bus import RedisPoolObserver, RedisSchedulerBus, RedisWorkerBus
from shared.redis_bus.observer import PoolView

CAPABILITIES = WorkerCapabilities(
    model="m", block_size=16, num_blocks=64, max_model_len=256, max_num_seqs=8, max_num_batched_tokens=64
)


async def test_an_empty_pool_has_no_leader_and_no_workers(redis_url: str) -> None:
    assert await RedisPoolObserver(redis_url, "p").look(timeout_s=3) == PoolView(None, ())


async def test_what_leader_and_live_workers_say_is_seen(redis_url: str) -> None:
    scheduler, worker = await RedisSchedulerBus.connect(redis_url, "p"), RedisWorkerBus.connect(redis_url, "p")
    said = PoolStatus(epoch=5, model="m", num_workers=1)
    await scheduler.publish_status(said)
    worker.register()  # has no heartbeat yet
    status = WorkerStatus(
        worker_id=worker.register(), capabilities=CAPABILITIES, last_step=StepId(5, 1), num_queued_plans=2, host="here"
    )
    worker.heartbeat(status)

    assert await RedisPoolObserver(redis_url, "p").look(timeout_s=3) == PoolView(said, (status,))
    await scheduler.close()
    worker.close()


async def test_without_redis_it_says_so_at_once() -> None:
    started_at = time.monotonic()
    with pytest.raises(BusUnavailableError):
        await RedisPoolObserver("redis://127.0.0.1:1/0", "p").look(timeout_s=3)
    assert time.monotonic() - started_at < 1
