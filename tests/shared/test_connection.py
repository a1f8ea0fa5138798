import asyncio
import socket

import pytest

from shared.redis_bus.connection import AsyncConnection


@pytest.mark.parametrize("num_turns", range(40))
async def test_whoever_is_cancelled_while_it_connects_ends_at_once(num_turns: int) -> None:
    """At whichever turn of the loop: before Python 3.12 `asyncio.wait_for`, which redis-py calls, may not hear."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = AsyncConnection(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", "test")
        calling = asyncio.create_task(connection.call("PING"))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        calling.cancel()
        done, _ = await asyncio.wait({calling}, timeout=2.0)
        assert done
        assert calling.cancelled()
