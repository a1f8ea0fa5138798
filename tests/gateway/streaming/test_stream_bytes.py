"""What a client receives, to the byte. `golden/` holds the streams as they stand; ids and times are left out.

A changed file there means that clients see something else. GOLDEN=write writes the files anew.
"""

import asyncio
import json
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.streaming.streams import TokenRouter
from shared.messages import Fault, Submit
from tests.gateway.chats import QWEN_TEMPLATE, THINKING_TEMPLATE, roomy_gateway, tokenizer_with, writes
from tests.gateway.conftest import CHAT_TEMPLATE, eventually
from tests.gateway.scripted_pool import Answer
from tests.gateway.tool_calls.test_tools import HERMES, WEATHER

GOLDEN = Path(__file__).parent / "golden"

_VARYING = rb'(?m)^id: [^:]*|"id":"[^"]*"|"created":\d+|"system_fingerprint":"[^"]*"'

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
TEXT = {"model": "tiny", "prompt": "Hi", "stream": True}
TOKENS = {"return_token_ids": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
GREETING = 'Grüß "Gott"\n🎉'

CASES: dict[str, tuple[str, str, dict]] = {
    "chat": (CHAT_TEMPLATE, GREETING, CHAT),
    "chat-ids": (CHAT_TEMPLATE, GREETING, CHAT | {"n": 2}),
    "chat-usage": (CHAT_TEMPLATE, GREETING, CHAT | {"n": 2, "stream_options": {"include_usage": True}}),
    "chat-tokens": (CHAT_TEMPLATE, GREETING, CHAT | TOKENS | {"logprobs": True, "top_logprobs": 2}),
    "chat-stop": (CHAT_TEMPLATE, "one, two, three", CHAT | {"stop": [", t", "three"]}),
    "chat-length": (CHAT_TEMPLATE, "one, two, three", CHAT | {"max_tokens": 5}),
    "chat-calls": (QWEN_TEMPLATE, f"Let me see.\n{HERMES}", CHAT | {"tools": [WEATHER]}),
    "chat-reasoning": (THINKING_TEMPLATE + "{# </think> #}", "Hmm.\n</think>\n\nYes.", CHAT),
    "text": (CHAT_TEMPLATE, GREETING, TEXT),
    "text-tokens": (CHAT_TEMPLATE, GREETING, TEXT | TOKENS | {"logprobs": 2, "echo": True}),
    "text-fault": (CHAT_TEMPLATE, "", TEXT),
}


class OneByOne:
    """Gives a choice its next token once the gateway has taken the one before, so that no two share an event."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.router: TokenRouter | None = None

    def __call__(self, submit: Submit, choice: int, position: int) -> int | Fault | None:
        assert self.router is not None
        if (stream := self.router._streams.get(submit.handle + choice)) is None:
            return None
        state = stream.choices[submit.handle + choice - stream.first_handle]
        is_taken = state.num_tokens == state._num_taken == position
        return self._answer(submit, choice, position) if is_taken else None


def breaks(submit: Submit, _choice: int, position: int) -> int | Fault:
    return b"ab"[position] if position < 2 else Fault(submit.handle, 500, "the worker fell over")


@pytest.mark.parametrize("name", CASES)
async def test_the_bytes_of_a_stream_are_the_golden_ones(name: str) -> None:
    template, text, body = CASES[name]
    tokenizer = tokenizer_with(template)
    answer = OneByOne(writes(tokenizer, text) if text else breaks)
    async with roomy_gateway(tokenizer, answer) as gateway:
        answer.router = gateway.app.token_router
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        headers = {"accept": "text/event-stream"} if name.endswith("-ids") else {}
        response = await gateway.http.post(path, json=body, headers=headers)
    assert response.status_code == 200
    assert response.headers["transfer-encoding"] == "chunked"
    received = re.sub(
        rb'(?m)^id: [^:]*|"id":"[^"]*"|"created":\d+|"system_fingerprint":"[^"]*"', _without_value, response.content
    )
    path = GOLDEN / f"{name}.sse"
    if os.environ.get("GOLDEN") == "write":
        path.write_bytes(received)
    assert received == path.read_bytes()


async def test_a_client_that_reads_slowly_gets_all_of_it_in_order() -> None:
    tokenizer = tokenizer_with(CHAT_TEMPLATE)
    text = "".join(chr(ord("a") + place % 26) for place in range(2000))
    async with roomy_gateway(tokenizer, writes(tokenizer, text)) as gateway:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.setblocking(False)
            address = urlsplit(gateway.base_url)
            await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
            reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
            body = json.dumps(CHAT).encode()
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n")
            writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            await eventually(lambda: bool(gateway.pool.submits))
            mine = [
                one for one in gateway.server.server_state.connections if one.cycle and not one.cycle.response_complete
            ]
            mine[0].transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            await eventually(lambda: mine[0].flow.write_paused)
            received = await reader.read()
            writer.close()
    assert "".join(re.findall(r'"content":"([a-z]+)"', received.decode())) == text
    assert received.endswith(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def test_every_golden_stream_belongs_to_a_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == CASES.keys()


def _without_value(found: re.Match[bytes]) -> bytes:
    return found[0].partition(b":")[0] + b":_"
