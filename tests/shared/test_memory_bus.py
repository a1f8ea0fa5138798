import asyncio
import threading

from shared.bus import LIVENESS_TTL_S, SEALED_TTL_S
from shared.ids import BEFORE_FIRST_STEP, Epoch, GatewayId, StepId, WorkerId
from shared.memory_bus import MemoryBus
from shared.messages import PoolStatus, StepResult, TokenBatch, WorkerCapabilities, WorkerStatus

CAPABILITIES = WorkerCapabilities(
    model="m", block_size=16, num_blocks=64, max_model_len=256, max_num_seqs=8, max_num_batched_tokens=64
)


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def result(gateway: GatewayId, worker: WorkerId, step: int) -> StepResult:
    batch = TokenBatch(
        gateway_id=gateway, worker_id=worker, step=StepId(5, step), previous=BEFORE_FIRST_STEP, tokens=b"\1\0\0\0"
    )
    return StepResult(batches=(batch,))


async def test_dropped_batches_are_missing_from_the_feed_and_stand_in_the_log() -> None:
    bus = MemoryBus(drop=lambda batch: batch.step.step % 2 == 0)
    gateway, worker = bus.gateway(), bus.worker()
    name = worker.register()
    feed = gateway.feed()
    first = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)
    for step in range(1, 6):
        worker.emit(name, StepId(5, step), result(gateway.gateway_id, name, step))
    fed = [await first, await anext(feed), await anext(feed)]
    _, logged = await gateway.backfill(name, BEFORE_FIRST_STEP)
    assert [batch.step.step for batch in fed] == [1, 3, 5]
    assert [batch.step.step for batch in logged] == [1, 2, 3, 4, 5]


async def test_a_worker_thread_and_two_event_loops_see_each_other() -> None:
    bus = MemoryBus()
    gateway, worker = bus.gateway(), bus.worker()
    name = worker.register()
    feed = gateway.feed()
    first = asyncio.ensure_future(anext(feed))
    await asyncio.sleep(0)

    def other_loop() -> None:
        scheduler = bus.scheduler("s")
        found.extend(asyncio.run(scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=10)))

    found: list[object] = []
    reader = threading.Thread(target=other_loop)
    reader.start()
    await asyncio.to_thread(worker.emit, name, StepId(5, 1), result(gateway.gateway_id, name, 1))
    async with asyncio.timeout(10):
        assert (await first).step == StepId(5, 1)
    await asyncio.to_thread(reader.join)
    assert len(found) == 1


async def test_signs_of_life_and_the_lease_run_out() -> None:
    clock = FakeClock()
    bus = MemoryBus(clock=clock)
    gateway, worker, first, second = bus.gateway(), bus.worker(), bus.scheduler("a"), bus.scheduler("b")
    name = worker.register()
    worker.heartbeat(WorkerStatus(worker_id=name, capabilities=CAPABILITIES, last_step=BEFORE_FIRST_STEP))
    await gateway.heartbeat()
    await first.publish_status(PoolStatus(epoch=1))
    epoch = await first.acquire_lease()
    clock.now += LIVENESS_TTL_S
    assert await first.workers() == {}
    assert await first.live_gateways([gateway.gateway_id]) == set()
    assert await gateway.pool_status() is None
    later = await second.acquire_lease()
    assert epoch is not None
    assert later is not None
    assert later > epoch
    assert await first.acquire_lease() is None


async def test_sealed_streams_are_forgotten_in_the_end() -> None:
    clock = FakeClock()
    bus = MemoryBus(clock=clock)
    worker, scheduler = bus.worker(), bus.scheduler("s")
    old, new = worker.register(), worker.register()
    await scheduler.seal(old, Epoch(5))
    clock.now += SEALED_TTL_S + 1
    await scheduler.seal(new, Epoch(5))
    assert await scheduler.writers() == [new]
