"""Requests that the bus has lost are submitted again, with what was told; those that have ended are not."""

from dataclasses import dataclass, field

import pytest

from gateway.streaming.in_flight import InFlightRequests
from gateway.streaming.streams import TokenRouter, TokenStream
from shared.ids import Handle, RequestId, StepId, WorkerId
from shared.memory_bus import MemoryBus, MemoryGatewayBus
from shared.messages import StepResult, Submit, TokenBatch, Told
from shared.packing import pack_u32
from shared.sampling import FinishCode, SamplingParams

WRITER = WorkerId("w1")


class MovingBus(MemoryGatewayBus):
    """One whose server another may take the place of."""

    server = "first"

    async def incarnation(self) -> str:
        return self.server


@dataclass
class Pool:
    bus: MemoryBus
    gateway: MovingBus
    router: TokenRouter
    in_flight: InFlightRequests
    epoch: int | None = 1
    now_s: float = 0.0
    num_steps: int = 0
    previous: StepId = field(default=StepId(0, 0))

    async def submit(self, *, n: int = 1) -> TokenStream:
        stream = self.router.open(n)
        message = Submit(
            request_id=RequestId(f"r{stream.first_handle}"),
            gateway_id=self.gateway.gateway_id,
            handle=stream.first_handle,
            prompt=pack_u32([1, 2]),
            sampling=SamplingParams(n=n),
            arrived_ms=0,
        )
        await self.in_flight.submit(message, stream.choices, max_requests=10)
        return stream

    async def tell(self, handle: Handle, index: int, *tokens: int, finish: FinishCode = FinishCode.RUNNING) -> None:
        self.num_steps += 1
        step = StepId(1, self.num_steps)
        batch = TokenBatch(
            self.gateway.gateway_id, WRITER, step, self.previous, handles=pack_u32([handle]), indices=pack_u32([index]),
            counts=bytes([len(tokens)]), finishes=bytes([finish]), tokens=pack_u32(tokens),
            cached=pack_u32([0] if index == 0 else []),
        )  # fmt: skip
        self.previous = step
        await self.bus.scheduler("s").emit(WRITER, step, StepResult((batch,)))

    async def received(self) -> list[Submit]:
        """What a scheduler finds, and ends without a word."""
        side = self.bus.scheduler("s")
        found = await side.receive(timeout_s=0)
        await side.finish([delivery.entry for delivery in found])
        return [delivery.message for delivery in found if isinstance(delivery.message, Submit)]


@pytest.fixture
async def pool() -> Pool:
    bus = MemoryBus()
    gateway = MovingBus(bus._state, bus.gateway().gateway_id)
    router = TokenRouter(gateway, lambda: made.now_s)
    in_flight = InFlightRequests(gateway, router, epoch=lambda: made.epoch, clock=lambda: made.now_s)
    made = Pool(bus, gateway, router, in_flight)
    await in_flight.restore()
    return made


async def test_a_quiet_request_without_an_entry_is_submitted_again_with_what_was_told(pool: Pool) -> None:
    stream = await pool.submit(n=2)
    assert [message.told for message in await pool.received()] == [()]
    await pool.tell(stream.first_handle, 0, 10, 11)
    await pool.tell(Handle(stream.first_handle + 1), 0, 20, finish=FinishCode.STOP)
    await pool.router.read_logs()
    await pool.in_flight.restore()
    assert await pool.received() == [], "it is not quiet"
    pool.now_s += 5
    await pool.in_flight.restore()
    (again,) = await pool.received()
    assert again.told == (Told(pack_u32([10, 11])), Told(pack_u32([20]), is_finished=True))
    assert pool.in_flight.forget(again.request_id)


async def test_a_request_whose_end_stands_in_a_log_is_not_lost(pool: Pool) -> None:
    stream = await pool.submit()
    await pool.received()
    await pool.tell(stream.first_handle, 0, 10, finish=FinishCode.LENGTH)
    pool.now_s += 5
    await pool.in_flight.restore()
    assert await pool.received() == []
    assert stream.choices[0].is_finished


async def test_a_request_that_waits_in_the_queue_is_not_lost(pool: Pool) -> None:
    await pool.submit()
    pool.now_s += 60
    await pool.in_flight.restore()
    assert [message.told for message in await pool.received()] == [()]
    assert not pool.in_flight.forget(RequestId("r0"))


async def test_a_term_on_another_server_is_told_all_that_was_told_to_clients(pool: Pool) -> None:
    stream = await pool.submit()
    await pool.tell(stream.first_handle, 0, 10)
    await pool.router.read_logs()
    pool.epoch, pool.gateway.server = None, "second"
    await pool.in_flight.restore()
    assert len(await pool.received()) == 1, "nobody leads: it is as it was"
    pool.epoch = 2
    await pool.in_flight.restore()
    assert [message.told for message in await pool.received()] == [(Told(pack_u32([10])),)]
    pool.epoch = 3
    await pool.in_flight.restore()
    assert await pool.received() == [], "a term on the same server has lost nothing"


async def test_what_the_client_has_left_is_not_submitted_again(pool: Pool) -> None:
    stream = await pool.submit()
    other = await pool.submit()
    await pool.received()
    stream.choices[0].stop()
    pool.in_flight.forget(RequestId(f"r{other.first_handle}"))
    pool.now_s += 5
    await pool.in_flight.restore()
    assert await pool.received() == []
