"""A server that streams what a script says, on a real socket, and tokenizers to make prompts with."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.tokenizer import Tokenizer
from loadtest.random_text import RandomText
from loadtest.settings import Target
from loadtest.tokenizer_source import load_tokenizer
from tests.gateway.conftest import BYTE_METADATA

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def text_event(text: str) -> bytes:
    return event({"choices": [{"index": 0, "text": text}]})


@dataclass
class ScriptedServer:
    """Answers each request with what the script writes; counts connections and requests under way."""

    script: Callable[["ScriptedServer", dict, asyncio.StreamWriter], Awaitable[None]]
    bodies: list[dict] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    num_connections: int = 0
    num_running: int = 0
    max_running: int = 0
    port: int = 0

    @property
    def target(self) -> Target:
        return Target(port=self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
                self.heads.append(head)
                self.bodies.append(json.loads(await reader.readexactly(length) or b"{}"))
                self.num_running += 1
                self.max_running = max(self.max_running, self.num_running)
                try:
                    await self.script(self, self.bodies[-1], writer)
                finally:
                    self.num_running -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def say_hello(_server: ScriptedServer, _body: dict, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + chunk(text_event("hello")) + chunk(b"data: [DONE]\n\n") + chunk(b""))
    await writer.drain()


@asynccontextmanager
async def scripted_server(script: Callable[..., Awaitable[None]] = say_hello) -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    return tokenizer_from_gguf(BYTE_METADATA)


@pytest.fixture(scope="session")
def demo_tokenizer() -> Tokenizer:
    return load_tokenizer("demo")


@pytest.fixture
def texts(byte_tokenizer: Tokenizer) -> RandomText:
    """Each letter is a token."""
    return RandomText(byte_tokenizer, seed=0)
