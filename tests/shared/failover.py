"""What must hold whenever another Redis takes over, however it is found: every role goes on there, by the same url."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import redis

from shared.errors import BusUnavailableError
from shared.ids import BEFORE_FIRST_STEP, Handle, RequestId, StepId
from shared.messages import StepResult, Submit
from shared.packing import pack_u32
from shared.redis_bus import RedisGatewayBus, RedisSchedulerBus, RedisWorkerBus
from shared.sampling import SamplingParams

T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(listener.getsockname()[1]) for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def soon(call: Callable[[], Awaitable[T]]) -> T:
    async with asyncio.timeout(20):
        while True:
            try:
                return await call()
            except BusUnavailableError:
                await asyncio.sleep(0.1)


async def every_role_goes_on(url: str, primary_port: int, take_over: Callable[[], None]) -> None:
    gateway = await RedisGatewayBus.connect(url, "p")
    scheduler = await RedisSchedulerBus.connect(url, "p")
    worker = RedisWorkerBus.connect(url, "p")
    submit = Submit(
        request_id=RequestId("r"), gateway_id=gateway.gateway_id, handle=Handle(0), prompt=pack_u32([1]),
        sampling=SamplingParams(), arrived_ms=0,
    )  # fmt: skip
    epoch = await scheduler.acquire_lease()
    assert epoch is not None
    entry = await gateway.submit(submit, max_requests=10)
    first = await gateway.incarnation()
    name = worker.register()
    worker.emit(name, StepId(epoch, 1), StepResult(num_tokens=1))
    with redis.Redis(port=primary_port, protocol=2) as client:
        client.wait(1, 5000)

    take_over()

    assert await soon(lambda: gateway.missing([entry])) == set()
    assert await gateway.incarnation() != first
    await soon(lambda: asyncio.to_thread(worker.emit, name, StepId(epoch, 2), StepResult(), previous=StepId(epoch, 1)))
    assert await soon(scheduler.acquire_lease) is not None
    logged = await soon(lambda: scheduler.read_results(name, BEFORE_FIRST_STEP, timeout_s=1))
    assert [entry.step.step for entry in logged] == [1, 2]
    (delivery,) = await soon(lambda: scheduler.receive(timeout_s=1))
    assert delivery.message == submit
    worker.close()
    await scheduler.close()
    await gateway.close()
