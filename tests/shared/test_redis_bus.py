"""What holds on Redis beyond the contract that every bus keeps (test_bus_contract.py)."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import redis
import uvloop

from loadtest.chaos.network import Link
from shared.bus import RESULT_RETENTION, SEALED_TTL_S
from shared.errors import BusUnavailableError, ConfigurationError, LeaseLostError, SealedError
from shared.ids import BEFORE_FIRST_STEP, SEAL_STEP, Epoch, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.keys import GROUP, PoolKeys
from shared.messages import (
    Cancel,
    PoolStatus,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    WorkerCapabilities,
    WorkerHello,
    WorkerStatus,
    decode,
)
from shared.packing import pack_u32
from shared.redis_bus import RedisGatewayBus, RedisSchedulerBus, RedisWorkerBus
from shared.redis_bus.connection import AsyncConnection
from shared.redis_bus.emission import LEAST_RETENTION, RETAINED_BYTES, emit_arguments
from shared.redis_server import RedisServer
from shared.sampling import SamplingParams

KEYS = PoolKeys("p")
CAPABILITIES = WorkerCapabilities(
    model="m", block_size=16, num_blocks=64, max_model_len=256, max_num_seqs=8, max_num_batched_tokens=64
)
CANCEL = Cancel(request_id=RequestId("r"), reason="disconnect")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


@pytest.fixture
async def gateway(redis_url: str) -> AsyncIterator[RedisGatewayBus]:
    bus = await RedisGatewayBus.connect(redis_url, "p")
    yield bus
    await bus.close()


@pytest.fixture
async def scheduler(redis_url: str) -> AsyncIterator[RedisSchedulerBus]:
    bus = await RedisSchedulerBus.connect(redis_url, "p")
    yield bus
    await bus.close()


@pytest.fixture
def worker(redis_url: str) -> Iterator[RedisWorkerBus]:
    bus = RedisWorkerBus.connect(redis_url, "p")
    yield bus
    bus.close()


def submit(gateway: GatewayId) -> Submit:
    return Submit(
        request_id=RequestId("r"),
        gateway_id=gateway,
        handle=Handle(0),
        prompt=pack_u32([1, 2, 3]),
        sampling=SamplingParams(),
        arrived_ms=0,
    )


def result(gateway: GatewayId, worker: WorkerId, step: StepId) -> StepResult:
    batch = TokenBatch(gateway_id=gateway, worker_id=worker, step=step, previous=BEFORE_FIRST_STEP)
    return StepResult(batches=(batch,), num_tokens=1)


async def until(found: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await found():  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.01)


async def test_bytes_that_are_no_message_are_delivered_with_the_reason_and_can_be_finished(
    client: redis.Redis, scheduler: RedisSchedulerBus
) -> None:
    client.xadd(KEYS.requests, {"d": b"\x01nonsense"})
    client.xadd(KEYS.control, {"d": b""})
    found = await scheduler.receive(timeout_s=1)
    assert [delivery.message for delivery in found] == [None, None]
    assert "found nothing" in found[1].error
    await scheduler.finish([delivery.entry for delivery in found])
    assert (client.xlen(KEYS.requests), client.xlen(KEYS.control)) == (0, 0)
    assert await scheduler.recover() == []


async def test_messages_written_before_the_first_scheduler_are_delivered(
    redis_url: str, gateway: RedisGatewayBus
) -> None:
    await gateway.submit(submit(gateway.gateway_id), max_requests=1)
    scheduler = await RedisSchedulerBus.connect(redis_url, "p")
    assert len(await scheduler.receive(timeout_s=1)) == 1
    await scheduler.close()


async def test_groups_and_scripts_come_back_after_redis_has_lost_everything(
    client: redis.Redis, gateway: RedisGatewayBus, scheduler: RedisSchedulerBus
) -> None:
    assert await scheduler.receive(timeout_s=0) == []
    await gateway.submit(submit(gateway.gateway_id), max_requests=1)
    client.flushall()
    client.script_flush()
    await gateway.submit(submit(gateway.gateway_id), max_requests=1)
    (delivery,) = await scheduler.receive(timeout_s=1)
    await scheduler.finish([delivery.entry])
    assert client.xlen(KEYS.requests) == 0


async def test_a_lost_inbox_wakes_a_waiting_scheduler_which_goes_on_waiting(
    client: redis.Redis, gateway: RedisGatewayBus, scheduler: RedisSchedulerBus
) -> None:
    receiving = asyncio.create_task(scheduler.receive(timeout_s=10))

    async def is_blocked() -> bool:
        return client.info("clients")["blocked_clients"] > 0

    await until(is_blocked)
    client.flushall()
    await gateway.cancel(CANCEL)
    assert [delivery.message for delivery in await receiving] == [CANCEL]


async def test_what_a_dead_scheduler_was_given_is_recovered(
    redis_url: str, client: redis.Redis, gateway: RedisGatewayBus, scheduler: RedisSchedulerBus
) -> None:
    dead = await RedisSchedulerBus.connect(redis_url, "p")
    await dead.acquire_lease()
    for _ in range(3):
        await gateway.submit(submit(gateway.gateway_id), max_requests=10)
    assert len(await dead.receive(timeout_s=1)) == 3
    await dead.close()
    client.delete(KEYS.lead)  # as when the lease runs out
    await scheduler.acquire_lease()
    recovered = await scheduler.recover()
    assert len(recovered) == 3
    await scheduler.finish([delivery.entry for delivery in recovered])
    assert client.xpending(KEYS.requests, GROUP)["pending"] == 0


async def test_what_a_read_of_ours_takes_that_comes_too_late_to_be_heard_is_delivered_again(
    client: redis.Redis, gateway: RedisGatewayBus, scheduler: RedisSchedulerBus
) -> None:
    await scheduler.acquire_lease()
    await gateway.submit(submit(gateway.gateway_id), max_requests=3)
    assert len(await scheduler.receive(timeout_s=1)) == 1
    await gateway.submit(submit(gateway.gateway_id), max_requests=3)
    ((consumer, *_),) = [list(found.values()) for found in client.xinfo_consumers(KEYS.requests, GROUP)]
    ((_, ((late, _),)),) = client.xreadgroup(GROUP, consumer, {KEYS.requests: ">"})
    await asyncio.sleep(1.1)  # until it looks for such entries
    found = await scheduler.receive(timeout_s=2)
    assert [delivery.entry for delivery in found] == [f"req:{late.decode()}"]


async def test_epochs_grow_even_if_redis_has_lost_its_data(
    redis_url: str, client: redis.Redis, scheduler: RedisSchedulerBus
) -> None:
    client.set(KEYS.epoch, 2_000_000_000)
    assert await scheduler.acquire_lease() == 2_000_000_001
    client.flushall()
    assert await scheduler.acquire_lease() == 2_000_000_002, "it is above its own last one, too"
    client.flushall()
    other = await RedisSchedulerBus.connect(redis_url, "p")
    assert time.time() - 5 < (await other.acquire_lease() or 0) < time.time() + 5
    await other.close()


async def test_a_zombie_that_emits_while_it_is_sealed_publishes_nothing_that_is_not_in_the_log(
    redis_url: str, client: redis.Redis, gateway: RedisGatewayBus, scheduler: RedisSchedulerBus
) -> None:
    channel = KEYS.tokens(gateway.gateway_id)
    with client.pubsub(ignore_subscribe_messages=True) as subscriber:
        subscriber.subscribe(channel)
        subscriber.get_message(timeout=1)
        for _ in range(5):
            zombie = _Zombie(redis_url, gateway.gateway_id)
            await asyncio.sleep(0.03)
            await scheduler.seal(zombie.name, Epoch(5))
            await asyncio.to_thread(zombie.thread.join, 10)
            _, logged = await gateway.backfill(zombie.name, BEFORE_FIRST_STEP)
            published = []
            while message := subscriber.get_message(timeout=0.05):
                published.append(decode(message["data"], TokenBatch))
            assert len(published) > 3
            assert published == logged
            assert zombie.num_refused == 20


class _Zombie:
    """Emits as fast as it can, and goes on for 20 steps after it has been refused."""

    def __init__(self, url: str, gateway: GatewayId) -> None:
        self._bus = RedisWorkerBus.connect(url, "p")
        self._gateway = gateway
        self.name = self._bus.register()
        self.num_refused = 0
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        step = StepId(5, 1)
        while self.num_refused < 20:
            try:
                self._bus.emit(self.name, step, result(self._gateway, self.name, step))
            except SealedError:
                self.num_refused += 1
            step = step.next()
        self._bus.close()


async def test_sealed_streams_expire_and_long_gone_writers_are_forgotten(
    client: redis.Redis, scheduler: RedisSchedulerBus, worker: RedisWorkerBus
) -> None:
    long_gone, unread, sealed = worker.register(), worker.register(), worker.register()
    worker.emit(unread, StepId(5, 1), StepResult())
    for name in (long_gone, unread):
        client.zadd(KEYS.writers, {name: time.time() - SEALED_TTL_S - 10})
    await scheduler.send_plan(sealed, StepId(5, 1), StepPlan())
    await scheduler.seal(sealed, Epoch(5))
    assert 0 < client.ttl(KEYS.results(sealed)) <= SEALED_TTL_S
    assert 0 < client.ttl(KEYS.plans(sealed)) <= SEALED_TTL_S
    assert set(await scheduler.writers()) == {unread, sealed}


async def test_a_writer_that_was_forgotten_cannot_come_back(
    client: redis.Redis, scheduler: RedisSchedulerBus, worker: RedisWorkerBus
) -> None:
    name = worker.register()
    client.zrem(KEYS.writers, name)
    with pytest.raises(SealedError):
        worker.heartbeat(WorkerStatus(worker_id=name, capabilities=CAPABILITIES, last_step=BEFORE_FIRST_STEP))
    with pytest.raises(SealedError):
        worker.emit(name, StepId(5, 1), StepResult())
    assert await scheduler.writers() == []


async def test_nothing_that_belongs_to_a_request_stays(
    client: redis.Redis, gateway: RedisGatewayBus, scheduler: RedisSchedulerBus, worker: RedisWorkerBus
) -> None:
    await gateway.submit(submit(gateway.gateway_id), max_requests=10)
    await gateway.cancel(CANCEL)
    await gateway.heartbeat()
    name = worker.register()
    worker.hello(WorkerHello(worker_id=name, capabilities=CAPABILITIES))
    worker.heartbeat(WorkerStatus(worker_id=name, capabilities=CAPABILITIES, last_step=BEFORE_FIRST_STEP))
    epoch = await scheduler.acquire_lease()
    assert epoch is not None
    await scheduler.send_plan(name, StepId(epoch, 1), StepPlan())
    worker.emit(name, StepId(epoch, 1), result(gateway.gateway_id, name, StepId(epoch, 1)))
    await scheduler.seal(name, epoch)
    await scheduler.finish([delivery.entry for delivery in await scheduler.receive(timeout_s=1)])
    lasting = {key.decode() for key in client.scan_iter() if client.ttl(key) == -1}
    assert lasting == {KEYS.requests, KEYS.control, KEYS.epoch, KEYS.writers, KEYS.worker_sequence}
    for stream in (KEYS.requests, KEYS.control):
        assert client.xlen(stream) == 0
        assert client.xpending(stream, GROUP)["pending"] == 0


async def test_the_feed_subscribes_again_after_its_connection_is_killed(
    client: redis.Redis, gateway: RedisGatewayBus, worker: RedisWorkerBus
) -> None:
    name, step = worker.register(), StepId(5, 0)
    seen: list[TokenBatch] = []

    async def read_feed() -> None:
        async with contextlib.aclosing(gateway.feed()) as feed:
            async for batch in feed:
                seen.append(batch)  # noqa: PERF401 - what was seen is looked at while the feed goes on

    async def sees_one_more() -> None:
        nonlocal step
        before = len(seen)
        async with asyncio.timeout(10):
            while len(seen) == before:
                step = step.next()
                worker.emit(name, step, result(gateway.gateway_id, name, step))
                await asyncio.sleep(0.01)

    reading = asyncio.create_task(read_feed())
    await sees_one_more()
    for _ in range(3):
        assert client.client_kill_filter(_type="pubsub") == 1
        await sees_one_more()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def test_without_redis_every_role_says_so_and_goes_on_when_it_is_back() -> None:
    with RedisServer() as server:
        gateway = await RedisGatewayBus.connect(server.url, "p")
        scheduler = await RedisSchedulerBus.connect(server.url, "p")
        worker = RedisWorkerBus.connect(server.url, "p")
        name = worker.register()
        server.kill()
        for call in (
            gateway.heartbeat,
            gateway.pool_status,
            lambda: gateway.submit(submit(gateway.gateway_id), max_requests=1),
            lambda: gateway.backfill(name, BEFORE_FIRST_STEP),
            scheduler.acquire_lease,
            lambda: scheduler.receive(timeout_s=1),
            lambda: scheduler.send_plan(name, StepId(5, 1), StepPlan()),
            lambda: scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=1),
            lambda: asyncio.to_thread(worker.read_plans, name, BEFORE_FIRST_STEP, timeout_s=1),
            lambda: asyncio.to_thread(worker.emit, name, StepId(5, 1), StepResult()),
        ):
            with pytest.raises(BusUnavailableError):
                await call()
        server.restart()
        await gateway.submit(submit(gateway.gateway_id), max_requests=1)
        assert len(await scheduler.receive(timeout_s=1)) == 1
        await scheduler.send_plan(name, StepId(5, 1), StepPlan())
        assert len(worker.read_plans(name, BEFORE_FIRST_STEP, timeout_s=1)) == 1
        worker.emit(name, StepId(5, 1), StepResult())
        for bus in (gateway, scheduler):
            await bus.close()
        worker.close()


async def test_a_redis_that_has_started_again_is_not_noticed_by_calls_that_may_be_repeated() -> None:
    with RedisServer() as server:
        gateway = await RedisGatewayBus.connect(server.url, "p")
        scheduler = await RedisSchedulerBus.connect(server.url, "p")
        worker = RedisWorkerBus.connect(server.url, "p")
        name = worker.register()
        epoch = await scheduler.acquire_lease()
        assert epoch is not None
        await gateway.writers()
        status = WorkerStatus(worker_id=name, capabilities=CAPABILITIES, last_step=BEFORE_FIRST_STEP)
        steps = (StepId(epoch, 1), StepId(epoch, 2))
        calls: list[Callable[[], Awaitable[object]]] = [
            gateway.heartbeat,
            gateway.pool_status,
            gateway.writers,
            lambda: gateway.backfill(name, BEFORE_FIRST_STEP),
            scheduler.acquire_lease,
            lambda: scheduler.receive(timeout_s=0.01),
            lambda: scheduler.publish_status(PoolStatus(epoch=epoch)),
            scheduler.workers,
            lambda: scheduler.live_gateways([gateway.gateway_id]),
            lambda: scheduler.send_plan(name, steps[0], StepPlan()),
            lambda: scheduler.emit(WorkerId("s"), steps[0], StepResult()),
            lambda: asyncio.to_thread(worker.heartbeat, status),
            lambda: asyncio.to_thread(worker.emit, name, steps[0], StepResult()),
            lambda: asyncio.to_thread(worker.read_plans, name, BEFORE_FIRST_STEP, timeout_s=0.01),
            lambda: scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=0.01),
            lambda: scheduler.seal(name, epoch),
        ]
        for call in calls:
            server.restart()
            await call()
        assert await gateway.backfill(name, BEFORE_FIRST_STEP) == (StepId(epoch, SEAL_STEP), [])
        for bus in (gateway, scheduler):
            await bus.close()
        worker.close()


def limit_waits(monkeypatch: pytest.MonkeyPatch, timeout_s: float) -> None:
    for module in ("connecting", "connection", "blocking_connection"):
        monkeypatch.setattr(f"shared.redis_bus.{module}.COMMAND_TIMEOUT_S", timeout_s)


async def test_a_redis_that_hangs_is_one_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_waits(monkeypatch, 0.2)
    with RedisServer() as server:
        gateway, scheduler = (
            await RedisGatewayBus.connect(server.url, "p"),
            await RedisSchedulerBus.connect(server.url, "p"),
        )
        worker = RedisWorkerBus.connect(server.url, "p")
        name = worker.register()
        calls: list[Callable[[], Awaitable[object]]] = [
            gateway.heartbeat,
            lambda: gateway.backfill(name, BEFORE_FIRST_STEP),
            lambda: scheduler.receive(timeout_s=0.1),
            lambda: scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=0.1),
            lambda: asyncio.to_thread(worker.register),
            lambda: asyncio.to_thread(worker.read_plans, name, BEFORE_FIRST_STEP, timeout_s=0.1),
        ]
        for call in calls:
            await call()
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for call in calls:
                async with asyncio.timeout(3):
                    with pytest.raises(BusUnavailableError):
                        await call()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        for call in calls:
            await call()
        await gateway.close()
        await scheduler.close()
        worker.close()


async def test_calls_that_wait_for_their_turn_while_redis_hangs_give_up_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit_waits(monkeypatch, 0.3)
    with RedisServer() as server:
        gateway = await RedisGatewayBus.connect(server.url, "p")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(2):
                answers = await asyncio.gather(*(gateway.heartbeat() for _ in range(20)), return_exceptions=True)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert {type(answer) for answer in answers} == {BusUnavailableError}
        await gateway.close()


async def test_a_name_that_does_not_resolve_is_a_redis_that_does_not_answer() -> None:
    with pytest.raises(BusUnavailableError):
        await RedisGatewayBus.connect("redis://no-such-host.invalid:6379/0", "p")
    with pytest.raises(BusUnavailableError):
        RedisWorkerBus.connect("redis://no-such-host.invalid:6379/0", "p")


async def test_a_server_of_another_kind_is_a_redis_that_does_not_answer() -> None:
    async def speak_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(speak_http, "127.0.0.1", 0)
    async with server:
        with pytest.raises(BusUnavailableError, match="Protocol error"):
            await RedisGatewayBus.connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", "p")


async def test_a_write_whose_reply_is_lost_is_not_sent_again(redis_url: str, client: redis.Redis) -> None:
    async with _reply_losing_proxy(redis_url, lost_after=b"XADD") as url:
        gateway = await RedisGatewayBus.connect(url, "p")
        with pytest.raises(BusUnavailableError):
            await gateway.cancel(CANCEL)
        await gateway.close()
    assert client.xlen(KEYS.control) == 1


async def test_a_plan_whose_reply_was_lost_can_be_sent_again(redis_url: str, client: redis.Redis) -> None:
    async with _reply_losing_proxy(redis_url, lost_after=b"MAXLEN") as url:
        scheduler = await RedisSchedulerBus.connect(url, "p")
        with pytest.raises(BusUnavailableError):
            await scheduler.send_plan(WorkerId("w"), StepId(5, 1), StepPlan())
        await scheduler.close()
    again = await RedisSchedulerBus.connect(redis_url, "p")
    await again.send_plan(WorkerId("w"), StepId(5, 1), StepPlan())
    with pytest.raises(LeaseLostError):
        await again.send_plan(WorkerId("w"), StepId(5, 1), StepPlan(released=b"\0\0"))
    await again.close()
    assert client.xlen(KEYS.plans(WorkerId("w"))) == 1


@contextlib.asynccontextmanager
async def _reply_losing_proxy(url: str, *, lost_after: bytes) -> AsyncIterator[str]:
    """A way to Redis that breaks after a command with these bytes has been executed, before its reply comes back."""
    path = url.removeprefix("unix://")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(path)
        while data := await reader.read(65536):
            server_writer.write(data)
            reply = await server_reader.read(65536)
            if lost_after in data:
                break
            writer.write(reply)
        server_writer.close()
        writer.close()

    server = await asyncio.start_unix_server(serve, f"{path}.proxy")
    async with server:
        yield f"{url}.proxy"


async def test_a_wrong_password_is_a_wrong_setting() -> None:
    with RedisServer() as server:
        with redis.Redis.from_url(server.url, protocol=2) as client:
            client.config_set("requirepass", "secret")
        with pytest.raises(ConfigurationError, match="password"):
            await RedisGatewayBus.connect(f"{server.url}?password=wrong", "p")
        with pytest.raises(ConfigurationError, match="password"):
            RedisWorkerBus.connect(f"{server.url}?password=wrong", "p")
        bus = await RedisGatewayBus.connect(f"{server.url}?password=secret", "p")
        await bus.close()


def test_a_url_of_another_kind_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationError, match="--redis-url"):
        RedisWorkerBus.connect("http://127.0.0.1:6379", "p")


def test_without_a_server_connecting_says_so() -> None:
    with pytest.raises(BusUnavailableError):
        RedisWorkerBus.connect("unix:///nowhere/redis.sock", "p")


def test_a_log_of_large_results_is_kept_shorter() -> None:
    """Log-probabilities of prompts are hundreds of kilobytes a step; Redis holds all that is kept."""

    def num_kept(num_bytes: int) -> object:
        batch = TokenBatch(GatewayId("g"), WorkerId("w"), StepId(1, 1), BEFORE_FIRST_STEP, tokens=bytes(num_bytes))
        return emit_arguments(KEYS, WorkerId("w"), StepId(1, 1), StepResult((batch,)))[3]

    assert num_kept(10_000) == RESULT_RETENTION
    assert num_kept(200_000) == pytest.approx(RETAINED_BYTES / 200_000, rel=0.01)
    assert num_kept(50_000_000) == LEAST_RETENTION


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_connection_that_was_reset_while_idle_is_made_again(run: Callable[..., None], redis_url: str) -> None:
    async def call_after_a_reset() -> None:
        link = await Link(redis_url.removeprefix("unix://")).open()
        connection = AsyncConnection(link.url, "test")
        for is_repeatable in (True, False):
            assert await connection.call("PING") == b"PONG"
            link.cut()
            await asyncio.sleep(0.05)
            assert await connection.call("PING", is_repeatable=is_repeatable) == b"PONG"
        assert connection.num_connects == 3
        await connection.close()
        await link.close()

    run(call_after_a_reset())
