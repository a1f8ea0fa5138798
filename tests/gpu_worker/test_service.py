import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeVar

import pytest
import redis

from gpu_worker.fake_runner import FakeRunner
from gpu_worker.runner import Runner, StepOutput
from gpu_worker.service import WorkerService
from shared.bus import Delivery, LoggedResult, SchedulerBus, WorkerBus
from shared.errors import BusUnavailableError
from shared.ids import BEFORE_FIRST_STEP, Epoch, StepId, WorkerId
from shared.memory_bus import MemoryBus
from shared.messages import StepPlan, WorkerBye, WorkerCapabilities, WorkerHello
from shared.packing import unpack_u32
from shared.redis_bus import RedisSchedulerBus, RedisWorkerBus
from shared.redis_server import RedisServer
from tests.gpu_worker.checked_plans import CAPABILITIES, admitted, plan

T = TypeVar("T")

FIRST = plan({0: 3}, admitted(0, [1, 2, 3], [0, 1]))
NEXT = plan({0: 1})


class GatedRunner:
    """Lets a step begin, tells so, and finishes it when allowed to."""

    def __init__(self) -> None:
        self._runner = FakeRunner(CAPABILITIES)
        self.entered = threading.Event()
        self.gate = threading.Event()

    @property
    def capabilities(self) -> WorkerCapabilities:
        return self._runner.capabilities

    def step(self, plan: StepPlan) -> StepOutput:
        self.entered.set()
        assert self.gate.wait(10)
        return self._runner.step(plan)

    def reset(self) -> None:
        self._runner.reset()


class Running:
    """A service in a thread, and what the scheduler hears of it."""

    def __init__(self, service: WorkerService, scheduler: SchedulerBus) -> None:
        self.service = service
        self.scheduler = scheduler
        self.exit_code: int | None = None
        self._unheard: deque[Delivery] = deque()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.exit_code = self.service.run()

    async def hears(self, kind: type[WorkerHello] | type[WorkerBye]) -> WorkerId:
        """The name in the next message, which must be of this kind."""
        if not self._unheard:
            self._unheard.extend(await self.scheduler.receive(timeout_s=10))
        delivery = self._unheard.popleft()
        await self.scheduler.finish([delivery.entry])
        assert isinstance(delivery.message, kind)
        return delivery.message.worker_id

    async def finish(self) -> int | None:
        await asyncio.to_thread(self.thread.join, 10)
        return self.exit_code


@contextmanager
def serving(bus: WorkerBus, runner: Runner, scheduler: SchedulerBus) -> Iterator[Running]:
    running = Running(WorkerService(bus, runner), scheduler)
    try:
        yield running
    finally:
        running.service.stop()
        running.thread.join()


@asynccontextmanager
async def on_memory(runner: Runner | None = None) -> AsyncIterator[Running]:
    bus = MemoryBus()
    with serving(bus.worker(), runner or FakeRunner(CAPABILITIES), bus.scheduler("s")) as running:
        yield running


async def until(found: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await found():  # noqa: ASYNC110 - what is waited for is in another thread
            await asyncio.sleep(0.005)


async def tokens(scheduler: SchedulerBus, worker: WorkerId, num_results: int) -> list[int]:
    """The tokens of a worker's first results."""
    logged: list[LoggedResult] = []
    while len(logged) < num_results:
        after = logged[-1].step if logged else BEFORE_FIRST_STEP
        more = await scheduler.read_results(worker, after, timeout_s=10)
        assert more
        logged += more
    return [
        token
        for entry in logged
        if entry.result
        for batch in entry.result.batches
        for token in unpack_u32(batch.tokens)
    ]


async def answered(call: Callable[[], Awaitable[T]]) -> T:
    """The bus repeats nothing: the first call after a crash may meet the old socket."""
    with suppress(BusUnavailableError):
        return await call()
    return await call()


async def test_plans_are_answered_in_order_under_their_ids() -> None:
    async with on_memory() as running:
        worker = await running.hears(WorkerHello)
        for step, sent in enumerate([FIRST, NEXT, NEXT], start=1):
            await running.scheduler.send_plan(worker, StepId(5, step), sent)
        assert len(await tokens(running.scheduler, worker, 3)) == 3
        logged = await running.scheduler.read_results(worker, BEFORE_FIRST_STEP, timeout_s=1)
        assert [entry.step for entry in logged] == [StepId(5, 1), StepId(5, 2), StepId(5, 3)]
        assert [entry.result.num_tokens for entry in logged if entry.result] == [3, 1, 1]


async def test_a_newer_epoch_begins_at_step_one_and_finds_the_rows_of_the_older_one() -> None:
    async with on_memory() as running:
        worker = await running.hears(WorkerHello)
        await running.scheduler.send_plan(worker, StepId(5, 1), FIRST)
        await running.scheduler.send_plan(worker, StepId(7, 1), NEXT)
        assert len(await tokens(running.scheduler, worker, 2)) == 2


@pytest.mark.parametrize("gap", [StepId(5, 3), StepId(6, 2)])
async def test_a_gap_in_the_plans_makes_it_leave_and_come_back_empty_under_a_new_name(gap: StepId) -> None:
    async with on_memory() as running:
        old = await running.hears(WorkerHello)
        await running.scheduler.send_plan(old, StepId(5, 1), FIRST)
        await running.scheduler.send_plan(old, gap, NEXT)
        assert await running.hears(WorkerBye) == old
        new = await running.hears(WorkerHello)
        assert new != old
        await running.scheduler.send_plan(new, StepId(6, 1), FIRST)
        assert len(await tokens(running.scheduler, new, 1)) == 1


async def test_a_sealed_worker_comes_back_empty_under_a_new_name() -> None:
    async with on_memory() as running:
        old = await running.hears(WorkerHello)
        await running.scheduler.send_plan(old, StepId(5, 1), FIRST)
        await tokens(running.scheduler, old, 1)
        await running.scheduler.seal(old, Epoch(5))
        new = await running.hears(WorkerHello)
        assert new != old
        await running.scheduler.send_plan(new, StepId(5, 1), FIRST)
        assert len(await tokens(running.scheduler, new, 1)) == 1


async def test_a_step_that_ends_after_the_seal_is_never_emitted() -> None:
    runner = GatedRunner()
    async with on_memory(runner) as running:
        old = await running.hears(WorkerHello)
        await running.scheduler.send_plan(old, StepId(5, 1), FIRST)
        assert await asyncio.to_thread(runner.entered.wait, 10)
        await running.scheduler.seal(old, Epoch(5))
        runner.gate.set()
        await running.hears(WorkerHello)
        assert [e.result for e in await running.scheduler.read_results(old, BEFORE_FIRST_STEP, timeout_s=1)] == [None]


async def test_an_impossible_plan_ends_the_process_with_an_error_after_a_goodbye() -> None:
    async with on_memory() as running:
        worker = await running.hears(WorkerHello)
        await running.scheduler.send_plan(worker, StepId(5, 1), NEXT)
        assert await running.hears(WorkerBye) == worker
        assert await running.finish() == 1


async def test_stopping_finishes_and_emits_the_step_in_flight_and_leaves_the_rest() -> None:
    runner = GatedRunner()
    async with on_memory(runner) as running:
        worker = await running.hears(WorkerHello)
        for step, sent in enumerate([FIRST, NEXT], start=1):
            await running.scheduler.send_plan(worker, StepId(5, step), sent)
        assert await asyncio.to_thread(runner.entered.wait, 10)
        running.service.stop()
        runner.gate.set()
        assert await running.hears(WorkerBye) == worker
        assert await running.finish() == 0
        logged = await running.scheduler.read_results(worker, BEFORE_FIRST_STEP, timeout_s=1)
        assert [entry.step for entry in logged] == [StepId(5, 1)]


async def test_a_wedged_step_shows_as_a_plan_that_waits_while_the_heartbeat_goes_on() -> None:
    runner = GatedRunner()
    async with on_memory(runner) as running:
        worker = await running.hears(WorkerHello)
        await running.scheduler.send_plan(worker, StepId(5, 1), FIRST)

        async def is_wedged() -> bool:
            status = (await running.scheduler.workers())[worker]
            return status.num_queued_plans == 1 and status.last_step == BEFORE_FIRST_STEP

        await until(is_wedged)
        runner.gate.set()

        async def has_gone_on() -> bool:
            status = (await running.scheduler.workers())[worker]
            return status.num_queued_plans == 0 and status.last_step == StepId(5, 1)

        await until(has_gone_on)


async def test_results_survive_a_crash_of_redis_and_the_worker_keeps_its_name_and_rows() -> None:
    runner = GatedRunner()
    with RedisServer() as server:
        bus, scheduler = RedisWorkerBus.connect(server.url, "p"), await RedisSchedulerBus.connect(server.url, "p")
        with serving(bus, runner, scheduler) as running:
            worker = await running.hears(WorkerHello)
            await scheduler.send_plan(worker, StepId(5, 1), FIRST)
            assert await asyncio.to_thread(runner.entered.wait, 10)
            server.kill()
            runner.gate.set()
            server.restart()
            assert len(await answered(lambda: tokens(scheduler, worker, 1))) == 1
            await answered(lambda: scheduler.send_plan(worker, StepId(5, 2), NEXT))
            assert len(await tokens(scheduler, worker, 2)) == 2
            running.service.stop()
        bus.close()
        await scheduler.close()


async def test_a_worker_that_redis_has_forgotten_registers_anew(redis_url: str) -> None:
    bus, scheduler = RedisWorkerBus.connect(redis_url, "p"), await RedisSchedulerBus.connect(redis_url, "p")
    with serving(bus, FakeRunner(CAPABILITIES), scheduler) as running:
        old = await running.hears(WorkerHello)
        with redis.Redis.from_url(redis_url, protocol=2) as client:
            client.flushall()
        assert await running.hears(WorkerHello) != old
    bus.close()
    await scheduler.close()
