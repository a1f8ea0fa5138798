"""What nobody should send to the gateway: damaged HTTP, damaged JSON, values of every wrong kind. On a real socket.

`tests/system/test_openapi.py` asks what its description allows and forbids; here nothing is sacred. `make fuzz` tries
more.
"""

import asyncio
import copy
import json
import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.tokenizers.tokenizer import Tokenizer
from tests.gateway.conftest import byte_tokenizer, running_gateway, says  # noqa: F401 - a fixture

NUM_EXAMPLES = int(os.environ.get("FUZZ_HTTP_EXAMPLES", "300"))
ANSWER_TIMEOUT_S = 10.0
BODIES: dict[str, Any] = {
    "/v1/completions": {
        "model": "tiny", "prompt": "Hi", "max_tokens": 4, "n": 2, "stop": ["x"], "logit_bias": {"65": -1}, "seed": 3,
        "logprobs": 1, "echo": True, "best_of": 2, "temperature": 0.5, "priority": 0,
        "structured_outputs": {"regex": "a+"},
    },
    "/v1/chat/completions": {
        "model": "tiny", "max_completion_tokens": 4, "messages": [{"role": "user", "content": "Hi"}], "stream": True,
        "stream_options": {"include_usage": True}, "top_logprobs": 1, "logprobs": True,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}},
    },
    "/v1/responses": {
        "model": "tiny", "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
        "max_output_tokens": 4, "text": {"format": {"type": "text"}}, "metadata": {"a": "b"}, "store": False,
    },
    "/v1/embeddings": {"model": "tiny", "input": ["a", [65, 66]], "encoding_format": "float"},
    "/tokenize": {"model": "tiny", "prompt": "Hi"},
    "/detokenize": {"model": "tiny", "tokens": [65, 66]},
    "/v1/batches": {"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"},
}  # fmt: skip

_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8),
    st.sampled_from(["\ud800", "\0", "a" * 5000, "1e999", 10**400, -0.0]),
)  # fmt: skip
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
) | st.just([[[[[[]]]]]] * 20)


@st.composite
def misshapen(draw: Callable[..., Any]) -> tuple[str, bytes]:
    """A right body with some of its values, however deep, replaced."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body = copy.deepcopy(BODIES[path])
    for _ in range(draw(st.integers(1, 3))):
        holder, key = {"body": body}, "body"
        while isinstance(holder[key], dict | list) and holder[key] and (holder[key] is body or draw(st.booleans())):
            holder = holder[key]
            key = draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder))))
        holder[key] = copy.deepcopy(draw(_values))  # a later round may change it
    return path, json.dumps(body).encode()


@st.composite
def damaged(draw: Callable[..., Any]) -> tuple[str, bytes]:
    """A right body as bytes of which some are others, or missing."""
    path = draw(st.sampled_from(sorted(BODIES)))
    data = json.dumps(BODIES[path]).encode()
    for place, piece, length in draw(
        st.lists(st.tuples(st.integers(0, 999), st.binary(max_size=6), st.integers(0, 6)), min_size=1, max_size=3)
    ):
        data = data[: place % len(data)] + piece + data[place % len(data) + length :] or b"x"
    return path, data


_bodies = misshapen() | damaged()
_head_edits = st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=12), st.integers(0, 12)), max_size=2)


class Fuzzed:
    """Sends bytes to a gateway, and reads what comes."""

    def __init__(self, base_url: str) -> None:
        url = urlsplit(base_url)
        assert url.hostname is not None
        assert url.port is not None
        self._address = (url.hostname, url.port)
        self.statuses: dict[int, int] = {}

    def post(self, path: str, body: bytes) -> int:
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
        answer = self.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert answer.startswith(b"HTTP/1.1 "), answer
        return int(answer.split()[1])

    def send(self, data: bytes, *, is_all: bool = False) -> bytes:
        """All that is answered until the gateway hangs up; with `is_all` it is told that no more will come."""
        with socket.create_connection(self._address, timeout=ANSWER_TIMEOUT_S) as connection:
            connection.sendall(data)
            if is_all:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while piece := connection.recv(65536):
                    answer += piece
            except ConnectionResetError:
                pass
        for status in {int(line.split()[1]) for line in answer.splitlines() if line.startswith(b"HTTP/1.1 ")}:
            self.statuses[status] = self.statuses.get(status, 0) + 1
        return answer


def drawn(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """Examples, all of them before the gateway runs: hypothesis wants nobody else to use `random` meanwhile."""
    found = []

    @settings(
        max_examples=NUM_EXAMPLES,
        deadline=None,
        derandomize="FUZZ_HTTP_EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    collect()
    return found


def send_bodies(fuzzed: Fuzzed, cases: list[tuple[str, bytes]]) -> None:
    for case in cases:
        assert fuzzed.post(*case) < 500, case


def send_heads(fuzzed: Fuzzed, cases: list[tuple[tuple[str, bytes], list[tuple[int, bytes, int]]]]) -> None:
    for (path, body), edits in cases:
        data = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        data += body
        for place, piece, length in edits:
            data = data[: place % len(data)] + piece + data[place % len(data) + length :] or b"x"
        fuzzed.send(data, is_all=True)


async def test_whatever_is_sent_the_gateway_answers_or_hangs_up_and_serves_on(
    byte_tokenizer: Tokenizer,  # noqa: F811 - the fixture
    caplog: pytest.LogCaptureFixture,
) -> None:
    bodies, heads = drawn(_bodies), drawn(st.tuples(_bodies, _head_edits))
    async with running_gateway(byte_tokenizer, says("Hello"), max_body_bytes=100_000) as gateway:
        fuzzed = Fuzzed(gateway.base_url)
        await asyncio.to_thread(send_bodies, fuzzed, bodies)
        await asyncio.to_thread(send_heads, fuzzed, heads)
        body = {"model": "tiny", "prompt": "Hi", "max_tokens": 9}
        answer = (await gateway.http.post("/v1/completions", json=body)).json()
        assert answer["choices"][0]["text"] == "Hello"
    print(fuzzed.statuses)
    assert {status for status in fuzzed.statuses if status >= 500} <= {503}
    assert fuzzed.statuses[400] > NUM_EXAMPLES / 3
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
