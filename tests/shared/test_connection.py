import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
import uvloop

from shared.errors import BusUnavailableError
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


@pytest.fixture
def resetting_url() -> Iterator[str]:
    """Of something that resets every connection as soon as it is made."""

    def reset_all() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    listener = socket.create_server(("127.0.0.1", 0))
    resetting = threading.Thread(target=reset_all)
    resetting.start()
    yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    resetting.join()


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def test_a_connection_that_is_reset_while_it_is_made_is_a_bus_that_does_not_answer(loop_factory, resetting_url) -> None:
    async def connect_often() -> None:
        for _ in range(100):
            with pytest.raises(BusUnavailableError):
                await AsyncConnection(resetting_url, "test").call("PING")

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(connect_often())
