"""A gateway that has fallen behind catches up without keeping everything else waiting."""

import asyncio

from shared.memory_bus import MemoryBus
from tests.gateway.streaming.test_streams import Writer, routing

NUM_STEPS = 50


async def test_tokens_that_are_all_there_are_routed_step_by_step_each_in_a_turn_of_its_own() -> None:
    """Sockets are written between turns: a client must not wait for its token until all steps have been routed."""
    bus = MemoryBus()
    gateway = bus.gateway()
    writer = Writer(bus, "w", gateway.gateway_id)
    turn, told = 0, list[int]()

    def count_turns() -> None:
        nonlocal turn
        turn += 1
        if len(told) < NUM_STEPS:
            asyncio.get_running_loop().call_soon(count_turns)

    async with routing(gateway) as router, asyncio.timeout(10):
        stream = router.open(1)

        def on_news() -> bool:
            told.append(turn)
            stream.take()
            return len(told) < NUM_STEPS

        waiting = asyncio.create_task(stream.wait(on_news))
        await asyncio.sleep(0)
        for position in range(NUM_STEPS):
            await writer.emit({stream.first_handle: position}, ends=position == NUM_STEPS - 1)
        count_turns()
        await waiting
        router.close(stream)
    assert len(set(told)) == NUM_STEPS
