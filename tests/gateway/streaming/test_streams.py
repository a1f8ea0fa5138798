import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from gateway.streaming.streams import TokenRouter, TokenStream
from shared.errors import BusUnavailableError
from shared.ids import SEAL_STEP, GatewayId, Handle, RequestId, StepId, WorkerId
from shared.memory_bus import MemoryBus, MemoryGatewayBus
from shared.messages import Cancel, Fault, StepResult, TokenBatch
from shared.packing import pack_u32
from shared.sampling import FinishCode
from tests.gateway.conftest import eventually


class Writer:
    """Emits tokens for one gateway as a worker does: token i of a choice is handle * 1000 + i."""

    def __init__(self, bus: MemoryBus, name: str, gateway: GatewayId, epoch: int = 1) -> None:
        self._side = bus.scheduler("s")
        self._name = WorkerId(name)
        self._gateway = gateway
        self._epoch = epoch
        self._step = 0
        self._previous = StepId(0, 0)

    async def emit(self, positions: dict[Handle, int], *, ends: bool = False, faults: tuple[Fault, ...] = ()) -> None:
        self._step += 1
        step = StepId(self._epoch, self._step)
        batch = TokenBatch(
            gateway_id=self._gateway,
            worker_id=self._name,
            step=step,
            previous=self._previous,
            handles=pack_u32(positions),
            indices=pack_u32(positions.values()),
            counts=bytes([1] * len(positions)),
            finishes=bytes([FinishCode.STOP if ends else FinishCode.RUNNING] * len(positions)),
            tokens=pack_u32(handle * 1000 + position for handle, position in positions.items()),
            cached=pack_u32(0 for position in positions.values() if position == 0),
            faults=faults,
        )
        self._previous = step
        await self._side.emit(self._name, step, StepResult((batch,)))

    async def seal(self) -> None:
        await self._side.seal(self._name, self._epoch)


@asynccontextmanager
async def routing(bus: MemoryGatewayBus) -> AsyncIterator[TokenRouter]:
    router = TokenRouter(bus, asyncio.get_running_loop().time)
    task = asyncio.create_task(router.run())
    await asyncio.sleep(0)
    try:
        yield router
        router.check()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read_all(stream: TokenStream) -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {i: [] for i in range(len(stream.choices))}
    open_choices = set(tokens)
    async with asyncio.timeout(10):
        while open_choices:
            await stream.wait()
            for delta in stream.take():
                tokens[delta.choice] += delta.tokens
                assert delta.fault is None
                if delta.finish is not FinishCode.RUNNING:
                    open_choices.discard(delta.choice)
    return tokens


def expected(stream: TokenStream, num_tokens: int) -> dict[int, list[int]]:
    return {i: [c.handle * 1000 + position for position in range(num_tokens)] for i, c in enumerate(stream.choices)}


def dropping(chance: float) -> Callable[[TokenBatch], bool]:
    rng = random.Random(1)
    return lambda _: rng.random() < chance


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.95, 1.0])
async def test_every_token_comes_once_and_in_order_however_many_messages_are_dropped(chance: float) -> None:
    memory = MemoryBus(drop=dropping(chance))
    gateway = memory.gateway()
    async with routing(gateway) as router:
        stream = router.open(3)
        writer = Writer(memory, "w-1", gateway.gateway_id)
        reading = asyncio.create_task(read_all(stream))
        for position in range(400):
            await writer.emit({choice.handle: position for choice in stream.choices}, ends=position == 399)
            if position % 7 == 0:
                await asyncio.sleep(0)
        assert await reading == expected(stream, 400)
        router.close(stream)


async def test_tokens_of_a_dead_worker_are_found_when_another_goes_on() -> None:
    lost: list[WorkerId] = [WorkerId("w-1")]
    memory = MemoryBus(drop=lambda batch: batch.worker_id in lost)
    gateway = memory.gateway()
    async with routing(gateway) as router:
        stream = router.open(1)
        handle = stream.first_handle
        first, second = Writer(memory, "w-1", gateway.gateway_id), Writer(memory, "w-2", gateway.gateway_id)
        for position in range(5):
            await first.emit({handle: position})
        await first.seal()
        for position in range(5, 9):
            await second.emit({handle: position}, ends=position == 8)
        assert await read_all(stream) == expected(stream, 9)
        assert router.cursors.of(WorkerId("w-1")) == StepId(1, SEAL_STEP)
        router.close(stream)


async def test_tokens_that_no_log_holds_end_the_choice_with_an_error() -> None:
    memory = MemoryBus()
    gateway = memory.gateway()
    async with routing(gateway) as router:
        stream = router.open(1)
        await Writer(memory, "w-1", gateway.gateway_id).emit({stream.first_handle: 3})
        async with asyncio.timeout(5):
            await stream.wait()
            (delta,) = stream.take()
        assert delta.finish is FinishCode.ERROR
        assert "from 0 on were lost" in delta.fault.message
        router.close(stream)


class FlakyBus(MemoryGatewayBus):
    """Its logs cannot be read a few times."""

    num_failures = 0

    async def backfill(self, writer: WorkerId, after: StepId) -> tuple[StepId, list[TokenBatch]]:
        if self.num_failures:
            self.num_failures -= 1
            raise BusUnavailableError("no answer")
        return await super().backfill(writer, after)


async def test_a_gap_that_cannot_be_filled_at_once_is_filled_later() -> None:
    steps_lost = {StepId(1, 2)}
    memory = MemoryBus(drop=lambda batch: batch.step in steps_lost)
    gateway = FlakyBus(memory._state, GatewayId("g"))
    async with routing(gateway) as router:
        gateway.num_failures = 2
        stream = router.open(1)
        writer = Writer(memory, "w-1", gateway.gateway_id)
        for position in range(4):
            await writer.emit({stream.first_handle: position}, ends=position == 3)
        assert await read_all(stream) == expected(stream, 4)
        router.close(stream)


async def test_what_stood_in_the_logs_before_the_start_is_passed_over() -> None:
    memory = MemoryBus()
    gateway = memory.gateway()
    writer = Writer(memory, "w-1", gateway.gateway_id)
    await writer.emit({Handle(0): 0})
    async with routing(gateway) as router:
        await eventually(lambda: router.cursors.of(WorkerId("w-1")) == StepId(1, 1))


async def test_tokens_of_a_closed_stream_are_dropped() -> None:
    memory = MemoryBus()
    gateway = memory.gateway()
    async with routing(gateway) as router:
        closed, still_open = router.open(1), router.open(1)
        router.close(closed)
        writer = Writer(memory, "w-1", gateway.gateway_id)
        await writer.emit({closed.first_handle: 0, still_open.first_handle: 0}, ends=True)
        assert await read_all(still_open) == expected(still_open, 1)
        router.close(still_open)


async def test_faults_reach_their_choice() -> None:
    memory = MemoryBus()
    gateway = memory.gateway()
    async with routing(gateway) as router:
        stream = router.open(2)
        fault = Fault(Handle(stream.first_handle + 1), 503, "no room")
        await Writer(memory, "w-1", gateway.gateway_id).emit({}, faults=(fault,))
        async with asyncio.timeout(5):
            await stream.wait()
            (delta,) = stream.take()
        assert (delta.choice, delta.fault) == (1, fault)
        router.close(stream)


async def test_handles_are_consecutive_and_skip_those_still_in_use() -> None:
    router = TokenRouter(MemoryBus().gateway(), lambda: 0.0)
    first = router.open(3)
    assert [choice.handle for choice in first.choices] == [0, 1, 2]
    router._routing._next_handle = 2**32 - 1
    second = router.open(2)
    assert [choice.handle for choice in second.choices] == [3, 4]
    router.close(first)
    with pytest.raises(AssertionError, match="never closed"):
        router.check()
    router.close(second)
    router.check()


async def test_a_cancel_is_sent_again_until_the_bus_takes_it() -> None:
    memory = MemoryBus()

    class DeafOnce(MemoryGatewayBus):
        attempts = 0

        async def cancel(self, message: Cancel) -> None:
            self.attempts += 1
            if self.attempts == 1:
                raise BusUnavailableError("no answer")
            await super().cancel(message)

    gateway = DeafOnce(memory._state, GatewayId("g"))
    async with routing(gateway) as router:
        router.cancel(Cancel(request_id=RequestId("r"), reason="stop"))
        await eventually(lambda: len(memory._state.control) == 1)
        await eventually(lambda: not router._cancels)
