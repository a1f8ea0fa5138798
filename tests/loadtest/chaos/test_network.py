"""The network between a service and Redis, with an echo in Redis' place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from loadtest.chaos.network import Link

HELLO = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$8\r\nsched-12\r\n"


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    handlers: list[asyncio.Task[None]] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        with suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    path = str(tmp_path / "redis.sock")
    async with await asyncio.start_unix_server(echo, path):
        opened = await Link(path).open()
        yield opened
        await opened.close()
        await asyncio.gather(*handlers)


async def connect(link: Link) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(urlsplit(link.url).hostname, urlsplit(link.url).port)


async def test_it_carries_both_ways_and_knows_who_is_there(link: Link) -> None:
    reader, writer = await connect(link)
    writer.write(HELLO)

    assert await reader.readexactly(len(HELLO)) == HELLO
    assert link.names == {"sched-12"}
    writer.close()


async def test_a_cut_resets_what_is_open_and_nothing_else(link: Link) -> None:
    reader, writer = await connect(link)
    writer.write(b"a")
    await reader.readexactly(1)
    link.cut()
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    writer.close()

    reader, writer = await connect(link)
    writer.write(b"b")
    assert await reader.readexactly(1) == b"b"
    writer.close()


async def test_a_stopped_network_holds_everything_back(link: Link) -> None:
    old = await connect(link)
    old[1].write(b"a")
    await old[0].readexactly(1)
    link.stop()
    new = await connect(link)
    for _, writer in (old, new):
        writer.write(b"late")
    for reader, _ in (old, new):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
    link.go_on()
    for reader, writer in (old, new):
        assert await reader.readexactly(4) == b"late"
        writer.close()


async def test_a_deaf_service_is_heard_and_hears_nothing(link: Link) -> None:
    reader, writer = await connect(link)
    link.deafen()
    writer.write(HELLO)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    assert link.names == {"sched-12"}  # it went through

    link.hear_again()
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    writer.close()


async def test_without_redis_nobody_is_let_in(tmp_path: Path) -> None:
    link = await Link(str(tmp_path / "nobody.sock")).open()
    reader, writer = await connect(link)
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    writer.close()
    await link.close()
