"""What every bus promises, run against the one on Redis and the one in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from shared.bus import DeadLetterBox, GatewayBus, LoggedResult, SchedulerBus, WorkerBus
from shared.dead_letters import Case, Cause, DeadLetter, Death
from shared.errors import LeaseLostError, LogLostError, QueueFullError, SealedError
from shared.ids import BEFORE_FIRST_STEP, SEAL_STEP, Epoch, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.kept_outputs import KeptOutput, OutputAddress, OutputPart, addresses_of
from shared.memory_bus import MemoryBus
from shared.messages import (
    Cancel,
    PoolStatus,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    WorkerBye,
    WorkerCapabilities,
    WorkerHello,
    WorkerStatus,
)
from shared.packing import pack_u16, pack_u32
from shared.redis_bus import RedisDeadLetterBox, RedisGatewayBus, RedisSchedulerBus, RedisWorkerBus
from shared.sampling import SamplingParams
from shared.usage import HourlyUsage, Usage, UsageRecord

CAPABILITIES = WorkerCapabilities(
    model="m", block_size=16, num_blocks=64, max_model_len=256, max_num_seqs=8, max_num_batched_tokens=64
)


class Buses:
    """Makes any number of each role on one pool and closes them."""

    def __init__(self, redis_url: str | None, stack: AsyncExitStack) -> None:
        self._url = redis_url
        self._memory = MemoryBus()
        self._stack = stack
        self._num_schedulers = 0

    async def gateway(self) -> GatewayBus:
        bus: GatewayBus = await RedisGatewayBus.connect(self._url, "p") if self._url else self._memory.gateway()
        self._stack.push_async_callback(bus.close)
        return bus

    async def scheduler(self) -> SchedulerBus:
        self._num_schedulers += 1
        bus: SchedulerBus = (
            await RedisSchedulerBus.connect(self._url, "p")
            if self._url
            else self._memory.scheduler(f"s{self._num_schedulers}")
        )
        self._stack.push_async_callback(bus.close)
        return bus

    def dead_letters(self) -> DeadLetterBox:
        box: DeadLetterBox = RedisDeadLetterBox(self._url, "p") if self._url else self._memory.dead_letters()
        self._stack.push_async_callback(box.close)
        return box

    def worker(self) -> WorkerBus:
        bus: WorkerBus = RedisWorkerBus.connect(self._url, "p") if self._url else self._memory.worker()
        self._stack.callback(bus.close)
        return bus


@pytest.fixture(params=["redis", "memory"])
async def buses(request: pytest.FixtureRequest) -> AsyncIterator[Buses]:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else None
    async with AsyncExitStack() as stack:
        yield Buses(url, stack)


def submit(request_id: str, gateway: GatewayId, *, n: int = 1) -> Submit:
    return Submit(
        request_id=RequestId(request_id),
        gateway_id=gateway,
        handle=Handle(0),
        prompt=pack_u32([1, 2, 3]),
        sampling=SamplingParams(n=n),
        arrived_ms=0,
    )


def result(gateway: GatewayId, worker: WorkerId, step: StepId, token: int = 7) -> StepResult:
    batch = TokenBatch(
        gateway_id=gateway,
        worker_id=worker,
        step=step,
        previous=BEFORE_FIRST_STEP,
        slots=pack_u16([0]),
        tokens=pack_u32([token]),
    )
    return StepResult(batches=(batch,), num_tokens=1)


async def until(found: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await found():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.01)


async def test_requests_and_control_messages_arrive_in_order(buses: Buses) -> None:
    gateway, scheduler, worker = await buses.gateway(), await buses.scheduler(), buses.worker()
    await scheduler.acquire_lease()
    for name in ("a", "b"):
        await gateway.submit(submit(name, gateway.gateway_id), max_requests=10)
    await gateway.cancel(Cancel(request_id=RequestId("a"), reason="disconnect"))
    name = worker.register()
    worker.hello(WorkerHello(worker_id=name, capabilities=CAPABILITIES))
    worker.bye(name)
    messages = [delivery.message for delivery in await scheduler.receive(timeout_s=1)]
    assert [m.request_id for m in messages if isinstance(m, Submit)] == ["a", "b"]
    assert [m for m in messages if not isinstance(m, Submit)] == [
        Cancel(request_id=RequestId("a"), reason="disconnect"),
        WorkerHello(worker_id=name, capabilities=CAPABILITIES),
        WorkerBye(worker_id=name),
    ]


async def test_a_waiting_receive_is_woken_by_a_message(buses: Buses) -> None:
    gateway, scheduler = await buses.gateway(), await buses.scheduler()
    receiving = asyncio.create_task(scheduler.receive(timeout_s=10))
    await asyncio.sleep(0.02)
    await gateway.submit(submit("a", gateway.gateway_id), max_requests=10)
    async with asyncio.timeout(5):
        assert len(await receiving) == 1


async def test_receive_returns_nothing_after_the_timeout(buses: Buses) -> None:
    scheduler = await buses.scheduler()
    assert await scheduler.receive(timeout_s=0.02) == []
    assert await scheduler.receive(timeout_s=0) == []


async def test_unfinished_messages_are_recovered_by_the_next_leader_and_finished_ones_are_not(buses: Buses) -> None:
    gateway, first, second = await buses.gateway(), await buses.scheduler(), await buses.scheduler()
    await first.acquire_lease()
    for name in ("a", "b", "c"):
        await gateway.submit(submit(name, gateway.gateway_id), max_requests=10)
    deliveries = await first.receive(timeout_s=1)
    await first.finish([deliveries[1].entry])
    await first.resign()
    await second.acquire_lease()
    recovered = await second.recover()
    assert [d.message.request_id for d in recovered if isinstance(d.message, Submit)] == ["a", "c"]
    assert [d.message.request_id for d in await second.recover() if isinstance(d.message, Submit)] == ["a", "c"]
    await second.finish([d.entry for d in recovered])
    assert await second.recover() == []


async def test_what_an_old_leader_takes_after_its_term_reaches_the_new_one(buses: Buses) -> None:
    gateway, old, new = await buses.gateway(), await buses.scheduler(), await buses.scheduler()
    await old.acquire_lease()
    await old.resign()
    await new.acquire_lease()
    assert await new.recover() == []
    await gateway.submit(submit("a", gateway.gateway_id), max_requests=10)
    assert len(await old.receive(timeout_s=1)) == 1

    async def arrives() -> bool:
        return [d.message for d in await new.receive(timeout_s=0.05)] == [submit("a", gateway.gateway_id)]

    await until(arrives)


async def test_a_cancelled_receive_loses_nothing(buses: Buses) -> None:
    gateway, scheduler = await buses.gateway(), await buses.scheduler()
    for number in range(20):
        receiving = asyncio.create_task(scheduler.receive(timeout_s=5))
        await asyncio.sleep(0)
        submitting = asyncio.create_task(gateway.submit(submit(str(number), gateway.gateway_id), max_requests=100))
        for _ in range(number % 7):
            await asyncio.sleep(0.0002)
        receiving.cancel()
        taken = await asyncio.gather(receiving, return_exceptions=True)
        await submitting
        if isinstance(taken[0], list):
            assert len(taken[0]) == 1
        else:
            assert [d.message.request_id for d in await scheduler.receive(timeout_s=1)] == [str(number)]


async def test_admission_never_exceeds_its_bound_under_concurrency(buses: Buses) -> None:
    gateways = [await buses.gateway() for _ in range(4)]
    scheduler = await buses.scheduler()
    outcomes = await asyncio.gather(
        *(
            gateway.submit(submit(f"{i}-{number}", gateway.gateway_id), max_requests=10)
            for i, gateway in enumerate(gateways)
            for number in range(20)
        ),
        return_exceptions=True,
    )
    refusals = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    assert len(refusals) == 70
    assert all(isinstance(refusal, QueueFullError) for refusal in refusals)
    assert len(await scheduler.receive(timeout_s=1)) == 10


async def test_a_finished_request_makes_room_for_another(buses: Buses) -> None:
    gateway, scheduler = await buses.gateway(), await buses.scheduler()
    await gateway.submit(submit("a", gateway.gateway_id), max_requests=1)
    (delivery,) = await scheduler.receive(timeout_s=1)
    with pytest.raises(QueueFullError):
        await gateway.submit(submit("b", gateway.gateway_id), max_requests=1)
    await scheduler.finish([delivery.entry])
    await gateway.submit(submit("b", gateway.gateway_id), max_requests=1)


async def test_an_entry_is_missing_once_its_request_has_ended_and_a_request_comes_back_past_the_bound(
    buses: Buses,
) -> None:
    gateway, scheduler = await buses.gateway(), await buses.scheduler()
    first = await gateway.submit(submit("a", gateway.gateway_id), max_requests=1)
    again = await gateway.resubmit(submit("a", gateway.gateway_id))
    assert await gateway.missing([first, again]) == set()
    delivered = await scheduler.receive(timeout_s=1)
    assert await gateway.missing([first, again]) == set()
    await scheduler.finish([delivered[0].entry])
    assert await gateway.missing([first, again]) == {first}
    assert await gateway.incarnation() == await gateway.incarnation()


async def test_a_result_that_does_not_follow_the_end_of_the_log_is_refused_and_told_where_that_is(
    buses: Buses,
) -> None:
    gateway, scheduler, worker = await buses.gateway(), await buses.scheduler(), buses.worker()
    name = worker.register()
    first, second, third = (StepId(5, step) for step in (1, 2, 3))
    worker.emit(name, first, result(gateway.gateway_id, name, first))
    with pytest.raises(LogLostError) as lost:
        worker.emit(name, third, result(gateway.gateway_id, name, third), previous=second)
    assert lost.value.last == first
    worker.emit(name, second, result(gateway.gateway_id, name, second), previous=first)
    worker.emit(name, third, result(gateway.gateway_id, name, third), previous=second)
    logged = await scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=0)
    assert [entry.step for entry in logged] == [first, second, third]


@pytest.mark.parametrize(("requests_per_s", "retry_after_s"), [(0.0, 1), (0.5, 6), (100.0, 1), (0.01, 60)])
async def test_a_refusal_says_when_to_come_back(buses: Buses, requests_per_s: float, retry_after_s: int) -> None:
    gateway, scheduler = await buses.gateway(), await buses.scheduler()
    await scheduler.publish_status(PoolStatus(epoch=1, requests_per_s=requests_per_s))
    for name in "abc":
        await gateway.submit(submit(name, gateway.gateway_id), max_requests=3)
    with pytest.raises(QueueFullError) as refusal:
        await gateway.submit(submit("d", gateway.gateway_id), max_requests=3)
    assert refusal.value.retry_after_s == retry_after_s


async def test_one_scheduler_leads_at_a_time_and_epochs_grow(buses: Buses) -> None:
    first, second = await buses.scheduler(), await buses.scheduler()
    epoch = await first.acquire_lease()
    assert epoch is not None
    assert await first.acquire_lease() == epoch
    assert await second.acquire_lease() is None
    await second.resign()
    assert await second.acquire_lease() is None
    await first.resign()
    later = await second.acquire_lease()
    assert later is not None
    assert later > epoch


async def test_plans_arrive_in_order_and_above_the_cursor(buses: Buses) -> None:
    scheduler, worker = await buses.scheduler(), buses.worker()
    name = worker.register()
    plans = [(StepId(5, step), StepPlan(released=pack_u16([step]))) for step in (1, 2, 3)]
    for step, plan in plans:
        await scheduler.send_plan(name, step, plan)
    assert worker.read_plans(name, BEFORE_FIRST_STEP, timeout_s=1) == plans
    assert worker.read_plans(name, StepId(5, 2), timeout_s=1) == plans[2:]
    assert worker.read_plans(name, StepId(5, 3), timeout_s=0.01) == []


async def test_a_worker_waiting_for_plans_is_woken(buses: Buses) -> None:
    scheduler, worker = await buses.scheduler(), buses.worker()
    name = worker.register()
    reading = asyncio.create_task(asyncio.to_thread(worker.read_plans, name, BEFORE_FIRST_STEP, timeout_s=10))
    await asyncio.sleep(0.02)
    await scheduler.send_plan(name, StepId(5, 1), StepPlan())
    async with asyncio.timeout(5):
        assert len(await reading) == 1


async def test_a_plan_sent_twice_stands_once_and_another_under_its_id_is_refused(buses: Buses) -> None:
    scheduler, worker = await buses.scheduler(), buses.worker()
    name = worker.register()
    plan = StepPlan(released=pack_u16([1]))
    for _ in range(2):
        await scheduler.send_plan(name, StepId(5, 1), plan)
    assert len(worker.read_plans(name, BEFORE_FIRST_STEP, timeout_s=1)) == 1
    with pytest.raises(LeaseLostError):
        await scheduler.send_plan(name, StepId(5, 1), StepPlan(released=pack_u16([2])))


async def test_an_old_leader_cannot_send_a_plan_after_a_newer_one_has(buses: Buses) -> None:
    old, new, worker = await buses.scheduler(), await buses.scheduler(), buses.worker()
    name = worker.register()
    await old.send_plan(name, StepId(5, 1), StepPlan())
    await new.send_plan(name, StepId(6, 1), StepPlan())
    with pytest.raises(LeaseLostError):
        await old.send_plan(name, StepId(5, 2), StepPlan())


async def test_results_are_logged_and_published_to_their_gateway_alone(buses: Buses) -> None:
    scheduler, worker = await buses.scheduler(), buses.worker()
    gateway, other = await buses.gateway(), await buses.gateway()
    name = worker.register()
    feeds = [gateway.feed(), other.feed()]
    waiting = [asyncio.ensure_future(anext(feed)) for feed in feeds]
    step = BEFORE_FIRST_STEP

    async def emit_until_subscribed() -> bool:
        nonlocal step
        step = StepId(5, step.step + 1)
        await asyncio.to_thread(worker.emit, name, step, result(gateway.gateway_id, name, step))
        return waiting[0].done()

    await until(emit_until_subscribed)
    seen = await waiting[0]
    assert (seen.gateway_id, seen.worker_id) == (gateway.gateway_id, name)
    assert not waiting[1].done()
    logged = await scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=1)
    assert [entry.step for entry in logged] == [StepId(5, i + 1) for i in range(step.step)]
    assert seen in [batch for entry in logged if entry.result for batch in entry.result.batches]
    for task, feed in zip(waiting, feeds, strict=True):
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await feed.aclose()  # type: ignore[attr-defined]


async def test_backfill_reads_our_batches_above_the_cursor(buses: Buses) -> None:
    gateway, worker = await buses.gateway(), buses.worker()
    name = worker.register()
    assert await gateway.backfill(name, BEFORE_FIRST_STEP) == (BEFORE_FIRST_STEP, [])
    for number in range(1, 4):
        to = gateway.gateway_id if number != 2 else GatewayId("other")
        worker.emit(name, StepId(5, number), result(to, name, StepId(5, number), token=number))
    read_up_to, batches = await gateway.backfill(name, BEFORE_FIRST_STEP)
    assert read_up_to == StepId(5, 3)
    assert [batch.tokens for batch in batches] == [pack_u32([1]), pack_u32([3])]
    read_up_to, batches = await gateway.backfill(name, StepId(5, 1))
    assert (read_up_to, [batch.step for batch in batches]) == (StepId(5, 3), [StepId(5, 3)])
    assert await gateway.writers() == [name]


async def test_an_emit_repeated_after_an_error_stands_once(buses: Buses) -> None:
    gateway, scheduler, worker = await buses.gateway(), await buses.scheduler(), buses.worker()
    name = worker.register()
    for _ in range(2):
        worker.emit(name, StepId(5, 1), result(gateway.gateway_id, name, StepId(5, 1)))
    assert len(await scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=1)) == 1


async def test_after_the_seal_nothing_is_read_emitted_or_sent(buses: Buses) -> None:
    gateway, scheduler, worker = await buses.gateway(), await buses.scheduler(), buses.worker()
    name = worker.register()
    worker.emit(name, StepId(5, 1), result(gateway.gateway_id, name, StepId(5, 1)))
    for _ in range(2):
        await scheduler.seal(name, Epoch(5))
    with pytest.raises(SealedError):
        worker.emit(name, StepId(5, 2), result(gateway.gateway_id, name, StepId(5, 2)))
    with pytest.raises(SealedError):
        worker.read_plans(name, BEFORE_FIRST_STEP, timeout_s=1)
    with pytest.raises(LeaseLostError):
        await scheduler.send_plan(name, StepId(5, 2), StepPlan())
    logged = await scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=1)
    assert [(entry.step, entry.result is None) for entry in logged] == [
        (StepId(5, 1), False),
        (StepId(5, SEAL_STEP), True),
    ]
    assert (await gateway.backfill(name, BEFORE_FIRST_STEP))[0].is_seal
    assert name in await scheduler.writers()


async def test_a_writer_sealed_before_its_first_result_is_sealed_for_good(buses: Buses) -> None:
    scheduler, worker = await buses.scheduler(), buses.worker()
    name = worker.register()
    await scheduler.seal(name, Epoch(5))
    with pytest.raises(SealedError):
        worker.emit(name, StepId(5, 1), StepResult())


async def test_a_worker_nobody_registered_cannot_emit(buses: Buses) -> None:
    worker = buses.worker()
    with pytest.raises(SealedError):
        worker.emit(WorkerId("w-unknown"), StepId(5, 1), StepResult())


async def test_an_old_leader_cannot_seal_what_a_newer_one_uses(buses: Buses) -> None:
    scheduler, worker = await buses.scheduler(), buses.worker()
    name = worker.register()
    worker.emit(name, StepId(6, 1), StepResult())
    with pytest.raises(LeaseLostError):
        await scheduler.seal(name, Epoch(5))


async def test_the_schedulers_own_faults_reach_the_log_until_a_newer_leader_seals_it(buses: Buses) -> None:
    gateway, old, new = await buses.gateway(), await buses.scheduler(), await buses.scheduler()
    writer = WorkerId("sched-5")
    fault = result(gateway.gateway_id, writer, StepId(5, 1))
    for _ in range(2):
        await old.emit(writer, StepId(5, 1), fault)
    assert await gateway.backfill(writer, BEFORE_FIRST_STEP) == (StepId(5, 1), list(fault.batches))
    await new.seal(writer, Epoch(6))
    with pytest.raises(LeaseLostError):
        await old.emit(writer, StepId(5, 2), fault)


async def test_names_of_workers_differ(buses: Buses) -> None:
    assert len({buses.worker().register() for _ in range(3)}) == 3


async def test_heartbeats_and_status_are_seen(buses: Buses) -> None:
    gateway, scheduler, worker = await buses.gateway(), await buses.scheduler(), buses.worker()
    silent = await buses.gateway()
    name = worker.register()
    assert await scheduler.workers() == {}
    assert await gateway.pool_status() is None
    status = WorkerStatus(worker_id=name, capabilities=CAPABILITIES, last_step=StepId(5, 1), num_queued_plans=2)
    worker.heartbeat(status)
    await gateway.heartbeat()
    await scheduler.publish_status(PoolStatus(epoch=5, model="m"))
    assert await scheduler.workers() == {name: status}
    assert await scheduler.live_gateways([gateway.gateway_id, silent.gateway_id]) == {gateway.gateway_id}
    assert await gateway.pool_status() == PoolStatus(epoch=5, model="m")
    worker.bye(name)
    assert await scheduler.workers() == {}


async def test_a_worker_that_has_just_registered_is_closed_to_the_leaders_before(buses: Buses) -> None:
    """A leader that was stopped, and does not know yet that another one leads, must not give it work or seal it."""
    scheduler, worker = await buses.scheduler(), buses.worker()
    epoch = await scheduler.acquire_lease()
    assert epoch is not None
    name = worker.register()
    with pytest.raises(LeaseLostError):
        await scheduler.send_plan(name, StepId(epoch - 1, 1), StepPlan())
    with pytest.raises(LeaseLostError):
        await scheduler.seal(name, Epoch(epoch - 1))
    await scheduler.send_plan(name, StepId(epoch, 1), StepPlan())
    assert worker.read_plans(name, BEFORE_FIRST_STEP, timeout_s=1) == [(StepId(epoch, 1), StepPlan())]
    worker.emit(name, StepId(epoch, 1), StepResult())
    logged = await scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=1)
    assert logged == [LoggedResult(StepId(epoch, 1), StepResult())]


async def test_an_earlier_leader_that_has_not_emitted_yet_emits_nothing(buses: Buses) -> None:
    scheduler = await buses.scheduler()
    epoch = await scheduler.acquire_lease()
    assert epoch is not None
    with pytest.raises(LeaseLostError):
        await scheduler.emit(WorkerId("s-earlier"), StepId(epoch - 1, 1), StepResult())
    await scheduler.emit(WorkerId("s-now"), StepId(epoch, 1), StepResult())


def letter(request_id: str, reason: str = "test") -> DeadLetter:
    return DeadLetter(
        cause=Cause.KILLS_WORKERS, source="req", message=b"m", reason=reason, at_ms=5, request_id=RequestId(request_id),
        deaths=(Death(WorkerId("w1"), 4, "no heartbeat", 3, 2),),
    )  # fmt: skip


CASE = Case(deaths=(Death(WorkerId("w1"), 4, "no heartbeat", 3, 2),), num_open=1, clears_at={0: 3})


async def test_a_case_stands_beside_its_request_until_that_is_finished(buses: Buses) -> None:
    gateway, old, new = await buses.gateway(), await buses.scheduler(), await buses.scheduler()
    await old.acquire_lease()
    for name in ("a", "b"):
        await gateway.submit(submit(name, gateway.gateway_id), max_requests=10)
    first, second = await old.receive(timeout_s=1)
    await old.keep({first.entry: CASE, second.entry: CASE})
    await old.finish([second.entry])
    await old.resign()
    await new.acquire_lease()
    (delivery,) = await new.recover()
    assert (delivery.entry, delivery.case) == (first.entry, CASE)
    with pytest.raises(LeaseLostError):
        await old.keep({first.entry: Case()})


async def test_tokens_are_kept_beside_their_request_until_that_is_finished(buses: Buses) -> None:
    gateway, old, new = await buses.gateway(), await buses.scheduler(), await buses.scheduler()
    await old.acquire_lease()
    two_choices = submit("a", gateway.gateway_id, n=2)
    await gateway.submit(two_choices, max_requests=10)
    (request,) = await old.receive(timeout_s=1)
    first, second = addresses_of(two_choices)

    def part(address: OutputAddress, start: int, *tokens: int, is_ended: bool = False) -> OutputPart:
        return OutputPart.of(address, start, tokens, is_ended=is_ended)

    async def kept(bus: SchedulerBus) -> list[tuple[list[int], bool]]:
        (delivery,) = await bus.recover()
        return [(list(tokens), is_ended) for tokens, is_ended in map(KeptOutput.read, delivery.kept)]

    assert await kept(old) == [([], False), ([], False)]
    await old.keep({}, [part(first, 0, 1, 2), part(second, 0, 7, is_ended=True)])
    await old.keep({request.entry: CASE}, [part(first, 2, 3), part(first, 2, 3, 4)])
    await old.keep({}, [part(first, 5, 6)])  # which would leave a gap
    assert await kept(old) == [([1, 2, 3, 4], False), ([7], True)]
    await old.keep({}, [part(first, 0, 9)])
    await old.resign()
    await new.acquire_lease()
    assert await kept(new) == [([9], False), ([7], True)]
    with pytest.raises(LeaseLostError):
        await old.keep({}, [part(first, 1, 8)])
    await new.finish([request.entry], outputs=[first, second])
    await gateway.submit(two_choices, max_requests=10)
    await new.receive(timeout_s=1)
    assert await kept(new) == [([], False), ([], False)]


async def test_a_dead_letter_is_written_once_and_closes_its_case(buses: Buses) -> None:
    gateway, scheduler, box = await buses.gateway(), await buses.scheduler(), buses.dead_letters()
    await scheduler.acquire_lease()
    for name in ("a", "b"):
        await gateway.submit(submit(name, gateway.gateway_id), max_requests=10)
    first, second = await scheduler.receive(timeout_s=1)
    for _ in range(2):
        await scheduler.bury(first.entry, letter("a"))
    await scheduler.bury(second.entry, letter("b"))
    assert [d.case for d in await scheduler.recover()] == [Case(is_closed=True)] * 2
    newest, oldest = await box.letters(limit=10)
    assert (newest.letter, oldest.letter) == (letter("b"), letter("a"))
    assert await box.letters(limit=1) == [newest]
    assert await box.letter(oldest.letter_id) == oldest
    assert await box.drop([oldest.letter_id, "1-1", "nonsense"]) == 1
    assert await box.letter(oldest.letter_id) is None
    assert await box.letter("nonsense") is None
    assert await box.letters(limit=10) == [newest]


async def test_only_the_leader_may_bury(buses: Buses) -> None:
    old, new = await buses.scheduler(), await buses.scheduler()
    await old.acquire_lease()
    await old.resign()
    await new.acquire_lease()
    with pytest.raises(LeaseLostError):
        await old.bury("req:1-1", letter("a"))
    assert await buses.dead_letters().letters(limit=10) == []


async def test_usage_is_summed_by_key_and_counts_an_entry_once(buses: Buses) -> None:
    gateway, scheduler = await buses.gateway(), await buses.scheduler()
    records = {}
    for name, key in (("a", "k1"), ("b", "k1"), ("c", "")):
        await gateway.submit(submit(name, gateway.gateway_id), max_requests=10)
        (delivery,) = await scheduler.receive(timeout_s=1)
        records[delivery.entry] = UsageRecord(RequestId(name), key, Usage(5, 4, 3, 2, 1))
    hour = int(time.time()) // 3600
    for _ in range(2):
        await scheduler.finish(list(records), records)
    found = [line._replace(hour=hour) for line in await gateway.usage(range(hour, hour + 2))]
    assert found == [
        HourlyUsage(hour, "", 1, Usage(5, 4, 3, 2, 1)),
        HourlyUsage(hour, "k1", 2, Usage(10, 8, 6, 4, 2)),
    ]
    assert await gateway.usage(range(hour - 2, hour)) == []
    assert await gateway.usage_of(RequestId("b")) == UsageRecord(RequestId("b"), "k1", Usage(5, 4, 3, 2, 1))
    assert await gateway.usage_of(RequestId("x")) is None


async def test_a_worker_says_what_broke_it(buses: Buses) -> None:
    scheduler, worker = await buses.scheduler(), buses.worker()
    name = worker.register()
    worker.bye(name, error="a plan contradicts itself")
    (delivery,) = await scheduler.receive(timeout_s=1)
    assert delivery.message == WorkerBye(worker_id=name, error="a plan contradicts itself")
