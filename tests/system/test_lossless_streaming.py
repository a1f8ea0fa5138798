"""Ten thousand tokens over a real Redis whose subscriptions are cut and whose publishes get lost, each exactly once."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis

from gateway.streaming.streams import TokenRouter
from gpu_worker.fake_runner import FakeRunner, fake_token
from gpu_worker.service import WorkerService
from scheduler_svc.service import SchedulerService
from scheduler_svc.settings import SchedulerSettings
from shared.ids import RequestId
from shared.messages import Submit, TokenBatch, WorkerCapabilities
from shared.packing import pack_u32
from shared.redis_bus import RedisGatewayBus, RedisSchedulerBus, RedisWorkerBus
from shared.sampling import FinishCode, SamplingParams

NUM_REQUESTS, NUM_TOKENS, VOCAB_SIZE = 20, 500, 32_000
CAPABILITIES = WorkerCapabilities(
    model="fake", block_size=16, num_blocks=1024, max_model_len=1024, max_num_seqs=32, max_num_batched_tokens=256
)


class LossyBus(RedisGatewayBus):
    """Loses a fifth of what is published to it."""

    num_lost = 0

    async def feed(self) -> AsyncIterator[TokenBatch]:
        randomness = random.Random(3)
        async for batch in super().feed():
            if randomness.random() < 0.2:
                self.num_lost += 1
            else:
                yield batch


async def collect(router: TokenRouter, bus: RedisGatewayBus, index: int) -> list[int]:
    stream = router.open(1)
    await bus.submit(
        Submit(
            request_id=RequestId(f"r{index}"),
            gateway_id=bus.gateway_id,
            handle=stream.first_handle,
            prompt=pack_u32([index, 1, 2]),
            sampling=SamplingParams(max_tokens=NUM_TOKENS),
            arrived_ms=index,
        ),
        max_requests=1000,
    )
    tokens: list[int] = []
    finish = FinishCode.RUNNING
    while finish is FinishCode.RUNNING:
        for delta in await stream.next():
            assert delta.fault is None
            tokens += delta.tokens
            finish = delta.finish
    router.close(stream)
    return tokens


@asynccontextmanager
async def running_pool(redis_url: str) -> AsyncIterator[tuple[TokenRouter, LossyBus]]:
    """A scheduler, a fake worker and a gateway's router, each with its own connections."""
    bus = await LossyBus.connect(redis_url, "default")
    scheduler_bus = await RedisSchedulerBus.connect(redis_url, "default")
    scheduler = SchedulerService(scheduler_bus, SchedulerSettings(redis_url=redis_url), clock=time.monotonic)
    worker = WorkerService(
        RedisWorkerBus.connect(redis_url, "default"), FakeRunner(CAPABILITIES, vocab_size=VOCAB_SIZE)
    )
    router = TokenRouter(bus, time.monotonic)
    scheduling, routing = asyncio.create_task(scheduler.run()), asyncio.create_task(router.run())
    computing = threading.Thread(target=worker.run, daemon=True)
    computing.start()
    try:
        yield router, bus
    finally:
        await asyncio.to_thread(worker.stop)
        await asyncio.to_thread(computing.join, 10)
        scheduler.stop()
        await scheduling
        routing.cancel()
        await asyncio.gather(routing, return_exceptions=True)
        await bus.close()
        await scheduler_bus.close()


class Scissors:
    """Cuts every subscription of a Redis, again and again."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self.num_cuts = 0

    async def run(self) -> None:
        randomness = random.Random(4)
        with redis.Redis.from_url(self._redis_url, protocol=2) as client:
            while True:
                await asyncio.sleep(randomness.uniform(0.02, 0.15))
                self.num_cuts += int(client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))


async def test_every_token_arrives_once_and_in_order(redis_url: str) -> None:
    scissors = Scissors(redis_url)
    async with running_pool(redis_url) as (router, bus):
        cutting = asyncio.create_task(scissors.run())
        async with asyncio.timeout(90):
            outputs = await asyncio.gather(*(collect(router, bus, index) for index in range(NUM_REQUESTS)))
        cutting.cancel()
    expected = [
        [fake_token(RequestId(f"r{index}"), 0, place, VOCAB_SIZE) for place in range(NUM_TOKENS)]
        for index in range(NUM_REQUESTS)
    ]
    assert outputs == expected
    assert sum(map(len, outputs)) == 10_000
    router.check()
    print(f"{bus.num_lost} published batches dropped, {scissors.num_cuts} subscriptions cut")
    assert bus.num_lost > 5
    assert scissors.num_cuts >= 3
