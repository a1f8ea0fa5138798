"""The shell over the bus: real scheduler and worker services with fake runners; the test plays the gateway."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gpu_worker.fake_runner import FakeRunner, fake_token
from gpu_worker.service import WorkerService
from scheduler_svc.service import Leader, SchedulerService
from scheduler_svc.settings import SchedulerSettings
from shared.bus import Delivery
from shared.errors import BusUnavailableError
from shared.ids import BEFORE_FIRST_STEP, GatewayId, Handle, RequestId, WorkerId
from shared.memory_bus import MemoryBus, MemorySchedulerBus
from shared.messages import Cancel, StepPlan, Submit, TokenBatch, WorkerCapabilities, WorkerHello, WorkerStatus
from shared.packing import pack_u32, unpack_u32
from shared.sampling import SamplingParams

VOCAB_SIZE = 32_000
CAPABILITIES = WorkerCapabilities(
    model="fake", block_size=4, num_blocks=64, max_model_len=128, max_num_seqs=8, max_num_batched_tokens=32
)
SETTINGS = SchedulerSettings(redis_url="memory://", worker_timeout_s=60, gateway_grace_s=0.3)


class FakeClient:
    """A gateway that only listens."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus.gateway(GatewayId("g1"))
        self.told: dict[int, dict[int, int]] = {}
        self.faults: dict[int, str] = {}
        self._num_handles = 0

    async def submit(self, prompt: list[int], *, max_tokens: int = 8, n: int = 1) -> RequestId:
        handle = Handle(self._num_handles)
        self._num_handles += n
        request_id = RequestId(f"r{handle}")
        await self.bus.submit(
            Submit(
                request_id=request_id,
                gateway_id=self.bus.gateway_id,
                handle=handle,
                prompt=pack_u32(prompt),
                sampling=SamplingParams(max_tokens=max_tokens, n=n),
                arrived_ms=handle,
            ),
            max_requests=1000,
        )
        return request_id

    async def read_logs(self) -> None:
        for writer in await self.bus.writers():
            _, batches = await self.bus.backfill(writer, BEFORE_FIRST_STEP)
            for batch in batches:
                self._take(batch)

    def _take(self, batch: TokenBatch) -> None:
        tokens = iter(unpack_u32(batch.tokens))
        for handle, index, count in zip(
            unpack_u32(batch.handles), unpack_u32(batch.indices), batch.counts, strict=True
        ):
            for offset in range(count):
                token = next(tokens)
                known = self.told.setdefault(handle, {}).setdefault(index + offset, token)
                assert known == token, "one index was told two tokens"
        self.faults |= {fault.handle: fault.message for fault in batch.faults}

    def output(self, handle: int) -> list[int]:
        known = self.told.get(handle, {})
        assert sorted(known) == list(range(len(known)))
        return [known[index] for index in range(len(known))]

    async def until(self, condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"still not so: {self.told}"
            await self.bus.heartbeat()
            await self.read_logs()
            await asyncio.sleep(0.01)


@asynccontextmanager
async def scheduler(bus: MemoryBus, name: str = "s1") -> AsyncIterator[SchedulerService]:
    service = SchedulerService(bus.scheduler(name), SETTINGS, clock=time.monotonic)
    running = asyncio.create_task(service.run())
    while await bus.gateway().pool_status() is None:  # noqa: ASYNC110 - the status is polled by its readers
        await asyncio.sleep(0.01)
    yield service
    service.stop()
    await running


class RunningWorker:
    def __init__(self, bus: MemoryBus, *, step_s: float = 0.0) -> None:
        runner = SlowRunner(step_s)
        self.service = WorkerService(bus.worker(), runner)
        self._thread = threading.Thread(target=self.service.run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.service.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()


class SlowRunner(FakeRunner):
    def __init__(self, step_s: float) -> None:
        super().__init__(CAPABILITIES, vocab_size=VOCAB_SIZE)
        self._step_s = step_s

    def step(self, plan: StepPlan):
        time.sleep(self._step_s)
        return super().step(plan)


def expected(handle: int, count: int, choice: int = 0) -> list[int]:
    return [fake_token(RequestId(f"r{handle}"), choice, index, VOCAB_SIZE) for index in range(count)]


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


async def is_idle(bus: MemoryBus) -> bool:
    status = await bus.gateway().pool_status()
    return status is not None and status.num_running == status.num_waiting == 0 and status.kv_cache_usage == 0.0


async def test_requests_are_answered_and_nothing_is_left(bus):
    client, worker = FakeClient(bus), RunningWorker(bus)
    async with scheduler(bus):
        for index in range(6):
            await client.submit([index, 1, 2, 3, 4], max_tokens=10, n=1 + index % 2)
        await client.until(lambda: sum(map(len, client.told.values())) == 90)
        assert client.output(0) == expected(0, 10)
        deadline = time.monotonic() + 5
        while not await is_idle(bus):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert await bus.scheduler("observer").recover() == []
        worker.stop()


async def test_a_worker_that_says_goodbye_hands_its_work_to_another(bus):
    client, first = FakeClient(bus), RunningWorker(bus, step_s=0.01)
    async with scheduler(bus):
        await client.submit([1, 2, 3], max_tokens=60)
        await client.until(lambda: len(client.output(0)) > 5)
        second = RunningWorker(bus)
        first.stop()
        await client.until(lambda: len(client.output(0)) == 60)
        assert client.output(0) == expected(0, 60)
        second.stop()


async def test_a_worker_without_heartbeat_is_sealed_and_its_requests_move_on(bus):
    client = FakeClient(bus)
    async with scheduler(bus):
        silent = bus.worker()
        name = silent.register()
        silent.heartbeat(WorkerStatus(worker_id=name, capabilities=CAPABILITIES, last_step=BEFORE_FIRST_STEP))
        silent.hello(WorkerHello(worker_id=name, capabilities=CAPABILITIES))
        await client.submit([1, 2, 3], max_tokens=5)
        await asyncio.to_thread(silent.read_plans, name, BEFORE_FIRST_STEP, timeout_s=5)
        other = RunningWorker(bus)
        await client.until(lambda: len(client.output(0)) == 5)
        assert client.output(0) == expected(0, 5)
        other.stop()


async def test_a_new_leader_goes_on_where_the_old_one_stopped(bus):
    client, worker = FakeClient(bus), RunningWorker(bus, step_s=0.005)
    async with scheduler(bus, "s1"):
        for _ in range(3):
            await client.submit([1, 2, 3], max_tokens=100, n=2)
        await client.until(lambda: len(client.output(0)) > 10)
    assert len(client.output(0)) < 100
    async with scheduler(bus, "s2"):
        await client.until(lambda: sum(map(len, client.told.values())) == 600)
        for handle in range(6):
            assert client.output(handle) == expected(handle - handle % 2, 100, choice=handle % 2)
        worker.stop()


async def test_a_prompt_too_long_for_every_worker_is_told_so(bus):
    client, worker = FakeClient(bus), RunningWorker(bus)
    async with scheduler(bus):
        await client.submit([7] * 200)
        await client.until(lambda: bool(client.faults))
        assert "200 tokens" in client.faults[0]
        worker.stop()


async def test_a_cancelled_request_stops_and_is_forgotten(bus):
    client, worker = FakeClient(bus), RunningWorker(bus, step_s=0.005)
    async with scheduler(bus):
        request = await client.submit([1, 2, 3], max_tokens=120)
        await client.until(lambda: len(client.output(0)) > 3)
        await client.bus.cancel(Cancel(request_id=request, reason="disconnect"))
        deadline = time.monotonic() + 5
        while not await is_idle(bus):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert len(client.output(0)) < 120
        worker.stop()


async def test_requests_of_a_gateway_that_is_gone_are_cancelled(bus):
    client, worker = FakeClient(bus), RunningWorker(bus, step_s=0.01)
    async with scheduler(bus):
        await client.submit([1, 2, 3], max_tokens=120)
        await client.until(lambda: len(client.output(0)) > 3)
        deadline = time.monotonic() + 8
        while not await is_idle(bus):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        worker.stop()


class FlakyBus(MemorySchedulerBus):
    """Redis is away for one call."""

    is_away = False

    async def receive(self, *, timeout_s: float) -> list[Delivery]:
        if self.is_away:
            self.is_away = False
            raise BusUnavailableError("gone")
        return await super().receive(timeout_s=timeout_s)


async def test_after_a_moment_without_redis_a_new_term_begins_in_which_faults_can_be_told(bus):
    flaky = FlakyBus(bus._state, "s1")
    client, worker = FakeClient(bus), RunningWorker(bus)
    service = SchedulerService(flaky, SETTINGS, clock=time.monotonic)
    running = asyncio.create_task(service.run())
    for handle in range(2):
        await client.submit([7] * 200)
        await client.until(lambda handle=handle: handle in client.faults)
        flaky.is_away = True
    service.stop()
    await running
    worker.stop()


async def test_a_standby_does_not_lead(bus):
    async with scheduler(bus, "s1"):
        assert await bus.scheduler("s2").acquire_lease() is None


def test_ids_of_writers_differ_between_leaders_and_workers(bus):
    assert bus.worker().register() != WorkerId("s1")


class FailingBus(MemorySchedulerBus):
    """Redis goes away right after a read."""

    num_reads = 0

    async def receive(self, *, timeout_s: float) -> list[Delivery]:
        self.num_reads += 1
        if self.num_reads > 1:
            raise BusUnavailableError("Redis does not answer")
        return await super().receive(timeout_s=0.05)


async def test_a_term_ends_although_there_was_work_at_that_very_moment() -> None:
    bus = FailingBus(MemoryBus()._state, "s")
    leader = Leader(bus, SETTINGS, await bus.acquire_lease(), clock=time.monotonic, stopping=asyncio.Event())
    async with asyncio.timeout(10):
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            await leader.run()
