"""Ten thousand tokens over a real Redis whose subscriptions are cut and whose publishes get lost, each exactly once."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator

import redis

from gateway.streams import TokenRouter
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


async def test_every_token_arrives_once_and_in_order(redis_url: str) -> None:
    bus = await LossyBus.connect(redis_url, "default")
    scheduler_bus = await RedisSchedulerBus.connect(redis_url, "default")
    settings = SchedulerSettings(redis_url=redis_url)
    scheduler = SchedulerService(scheduler_bus, settings, clock=time.monotonic)
    scheduling = asyncio.create_task(scheduler.run())
    worker = WorkerService(
        RedisWorkerBus.connect(redis_url, "default"), FakeRunner(CAPABILITIES, vocab_size=VOCAB_SIZE)
    )
    computing = threading.Thread(target=worker.run, daemon=True)
    computing.start()
    router = TokenRouter(bus, time.monotonic)
    routing = asyncio.create_task(router.run())
    cuts = 0

    async def cut() -> None:
        nonlocal cuts
        with redis.Redis.from_url(redis_url, protocol=2) as breaker:
            while True:
                await asyncio.sleep(random.Random(cuts).uniform(0.02, 0.15))
                cuts += int(breaker.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))

    cutting = asyncio.create_task(cut())
    async with asyncio.timeout(90):
        outputs = await asyncio.gather(*(collect(router, bus, index) for index in range(NUM_REQUESTS)))
    cutting.cancel()

    expected = [
        [fake_token(RequestId(f"r{index}"), 0, place, VOCAB_SIZE) for place in range(NUM_TOKENS)]
        for index in range(NUM_REQUESTS)
    ]
    assert outputs == expected
    assert sum(map(len, outputs)) == 10_000
    print(f"{bus.num_lost} published batches dropped, {cuts} subscriptions cut")
    assert bus.num_lost > 50
    assert cuts > 3

    await asyncio.to_thread(worker.stop)
    await asyncio.to_thread(computing.join, 10)
    scheduler.stop()
    await scheduling
    routing.cancel()
    await asyncio.gather(routing, cutting, return_exceptions=True)
    router.check()
    await bus.close()
    await scheduler_bus.close()
