"""A gateway on a real socket, with a tokenizer whose tokens are single bytes and a pool that follows a script."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from gateway.app import GatewayApp, create_app
from gateway.chat.chat_format import ChatFormat
from gateway.chat.output_planner import OutputPlanner
from gateway.grammars.grammar_check import GrammarCheck
from gateway.main import GatewayServer
from gateway.settings import GatewaySettings
from gateway.storage.archives import Archives
from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.vocabulary import byte_alphabet
from shared.memory_bus import MemoryBus
from tests.gateway.scripted_pool import Answer, ScriptedPool

CHAT_TEMPLATE = """{% for message in messages %}{% if message.role == 'function' %}\
{{ raise_exception('functions have no place here') }}{% endif %}\
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

BYTE_METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [character for _, character in sorted(byte_alphabet().items())]
    + ["<|im_start|>", "<|im_end|>"],
    "tokenizer.ggml.token_type": [1] * 256 + [3, 3],
    "tokenizer.ggml.merges": [],
    "tokenizer.ggml.eos_token_id": 257,
    "tokenizer.chat_template": CHAT_TEMPLATE,
}
EOS = 257


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """Token i is byte i; 256 and 257 are ChatML's marks."""
    return tokenizer_from_gguf(BYTE_METADATA)


def planner(tokenizer: Tokenizer, **settings: object) -> OutputPlanner:
    """As the application makes it."""
    return OutputPlanner(ChatFormat.choose(tokenizer, **settings), GrammarCheck(tokenizer))


def says(text: str) -> Answer:
    """Every choice says this, then ends."""
    tokens = [*text.encode(), EOS]
    return lambda _submit, _choice, position: tokens[position]


async def eventually(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 5.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(timeout_s):
        while True:
            held = condition()
            if held is True or (held is not False and await held):
                return
            await asyncio.sleep(0.005)


@dataclass
class Running:
    """A gateway that serves."""

    base_url: str
    http: httpx.AsyncClient
    app: GatewayApp
    server: GatewayServer
    pool: ScriptedPool


@asynccontextmanager
async def running_gateway(
    tokenizer: Tokenizer,
    answer: Answer,
    bus: MemoryBus | None = None,
    archives: Archives | None = None,
    **settings: object,
) -> AsyncIterator[Running]:
    """Serve until the block ends; then nothing may be left over."""
    bus = bus or MemoryBus()
    pool = ScriptedPool(bus, answer)
    chosen = GatewaySettings(**({"pool": "test", "model": "tiny", "shutdown_timeout_s": 0.2} | settings))
    gateway_bus = bus.gateway()
    app = create_app(chosen, gateway_bus, tokenizer, archives or Archives.in_memory(chosen))
    server = GatewayServer(app, chosen)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        pooling = asyncio.create_task(pool.run())
        await eventually(lambda: has_status(gateway_bus, pool))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            await eventually(lambda: server.started or serving.done())
            async with httpx.AsyncClient(base_url=base_url, timeout=10) as http:
                yield Running(base_url, http, app, server, pool)
                server.should_exit = True
                await serving
        finally:
            pooling.cancel()
            serving.cancel()
            await asyncio.gather(pooling, serving, return_exceptions=True)
    app.token_router.check()


async def has_status(bus: object, pool: ScriptedPool) -> bool:
    return pool.status is None or await bus.pool_status() is not None
