"""Keys, limits, and clients that do not read or do not write."""

import asyncio
import contextlib
import json
import logging
import socket
from pathlib import Path

import pytest

from gateway.access import boundary
from gateway.access.admission import Admission, Load
from gateway.access.keyring import ANYBODY, ApiKey, Keyring, digest
from gateway.http import connection
from gateway.tokenizers.tokenizer import Tokenizer
from pagestream.cli import main
from shared.errors import AuthenticationError, ConfigurationError, QueueFullError
from shared.messages import Submit
from tests.gateway.conftest import eventually, running_gateway, says

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
LONG = CHAT | {"stream": True, "max_tokens": 200}


def silent(_submit: Submit, _choice: int, _position: int) -> None:
    return None


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Alice, who has limits; Bob, who shares; Root, who sees."""
    path = tmp_path / "keys.toml"
    path.write_text(
        f"""
        [[key]]
        name = "alice"
        sha256 = "{digest("sk-alice")}"
        max_num_requests = 2
        [[key]]
        name = "bob"
        sha256 = "{digest("sk-bob")}"
        shares_prefix_cache = true
        max_num_tokens = 100
        [[key]]
        name = "root"
        sha256 = "{digest("sk-root")}"
        admin = true
        """
    )
    return path


def of(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{name}"}


async def test_keys_are_known_by_their_hashes_and_have_limits(byte_tokenizer: Tokenizer, key_file: Path) -> None:
    async with running_gateway(byte_tokenizer, silent, api_key_file=str(key_file)) as gateway:
        gateway.pool.step_s = 0.005
        for wrong in ({}, of("eve"), {"authorization": f"Bearer {digest('sk-alice')}"}):
            assert (await gateway.http.get("/v1/models", headers=wrong)).status_code == 401
            assert (await gateway.http.post("/tokenize", json={"prompt": "x"}, headers=wrong)).status_code == 401
        assert (await gateway.http.get("/health")).status_code == 200
        calls = [
            asyncio.create_task(gateway.http.post("/v1/chat/completions", json=CHAT, headers=of("alice")))
            for _ in range(2)
        ]
        await eventually(lambda: len(gateway.pool.submits) == 2)
        third = await gateway.http.post("/v1/chat/completions", json=CHAT, headers=of("alice"))
        assert third.status_code == 429
        assert int(third.headers["retry-after"]) >= 1
        assert third.json()["error"]["code"] == "queue_full"
        load = await gateway.http.get("/v1/admin/load", headers=of("root"))
        assert load.json()["calls"] == {"alice": 2, "root": 1}
        assert (await gateway.http.get("/v1/admin/load", headers=of("bob"))).status_code == 403
        for call in calls:
            call.cancel()
        await eventually(lambda: len(gateway.pool.cancels) == 2)
    gateway.app.admission.check()


async def test_prefixes_are_shared_only_by_those_who_say_so(byte_tokenizer: Tokenizer, key_file: Path) -> None:
    async with running_gateway(byte_tokenizer, says("ok"), api_key_file=str(key_file)) as gateway:
        for name in ("alice", "bob", "root"):
            await gateway.http.post("/v1/chat/completions", json=CHAT, headers=of(name))
        body = {"model": "tiny", "input": "Hi"}
        await gateway.http.post("/v1/responses", json=body, headers=of("alice"))
        await gateway.http.post("/v1/responses", json=body | {"cache_salt": "x"}, headers=of("bob"))
        alice, bob, root, response, bobs_response = [submit.cache_salt for submit in gateway.pool.submits]
        assert (bob, bobs_response) == ("", "x")
        assert alice == response
        assert len({alice, bob, root}) == 3


def test_a_key_that_is_made_is_one_that_opens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["api-key", "carol"]) == 0
    told = capsys.readouterr()
    key = told.err.split()[-1]
    assert key not in told.out
    path = tmp_path / "keys.toml"
    path.write_text(told.out)
    ring = Keyring.load((), str(path))
    assert ring.owner_of(f"Bearer {key}").name == "carol"
    with pytest.raises(AuthenticationError):
        ring.owner_of(f"Bearer {key}x")
    with pytest.raises(AuthenticationError):
        ring.owner_of(f"Basic {key}")


@pytest.mark.parametrize(
    "text",
    ["key = 1", "[[key]]\nname = 'a'", "[[key]]\nname = 'a'\nsha256 = 'sk-plain'", "nonsense", "[[key]]\nnmae = 'a'"],
)
def test_a_wrong_file_of_keys_is_told_at_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"--api-key-file .*keys\.toml"):
        Keyring.load((), str(path))


def test_admission_counts_calls_bytes_and_tokens() -> None:
    admission = Admission(max_calls=3, max_bytes=1000, requests_per_s=lambda: 0.25)
    small = ApiKey(name="small", sha256="0" * 64, max_num_tokens=50)
    admission.enter(ANYBODY, Load(600))
    with pytest.raises(QueueFullError, match="600 bytes"):
        admission.enter(ANYBODY, Load(401))
    admission.enter(small, Load(160))
    with pytest.raises(QueueFullError, match="40 prompt tokens") as refused:
        admission.enter(small, Load(60))
    assert refused.value.retry_after_s == 8  # one of two calls is theirs, and one ends in 4 s
    admission.enter(ANYBODY, Load(0))
    with pytest.raises(QueueFullError, match="3 calls"):
        admission.enter(small, Load(0))
    admission.leave(small, Load(160))
    admission.enter(small, Load(400))  # alone it may be larger: else it could never be served
    admission.leave(small, Load(400))
    admission.leave(ANYBODY, Load(600))
    admission.leave(ANYBODY, Load(0))
    admission.check()


async def test_a_body_that_does_not_come_is_given_up(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boundary, "BODY_TIMEOUT_S", 0.2)
    async with running_gateway(byte_tokenizer, says("")) as gateway:
        host, port = gateway.base_url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        status = await asyncio.wait_for(reader.readline(), 5)
        assert b" 408 " in status
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_who_does_not_read_is_cut_off_and_its_request_cancelled(
    byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_WRITE_S", 0.3)
    endless = says("x" * 250)
    async with running_gateway(byte_tokenizer, endless) as gateway:
        gateway.pool.step_s = 0.005
        host, port = gateway.base_url.removeprefix("http://").split(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect((host, int(port)))
            body = json.dumps(LONG | {"n": 64, "logprobs": True, "top_logprobs": 20}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            await eventually(lambda: bool(gateway.pool.submits))
            await eventually(lambda: bool(gateway.pool.cancels), timeout_s=20)
        assert (await gateway.http.get("/ping")).status_code == 200


async def test_nothing_that_people_write_is_logged(byte_tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the safe's number is 4711"
    async with running_gateway(byte_tokenizer, says(secret)) as gateway:
        for change in ({}, {"stream": True}, {"temperature": secret}, {"stop": [secret]}, {"model": secret}):
            body = CHAT | {"messages": [{"role": "user", "content": secret}], **change}
            await gateway.http.post("/v1/chat/completions", json=body, headers={"idempotency-key": secret})
        await gateway.http.post("/v1/chat/completions", content=b'{"model": "the safe\'s number is 4711')
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert "4711" not in logged


async def test_input_that_is_too_deep_is_refused(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("")) as gateway:
        deep = b'{"model": "tiny", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        schema: dict[str, object] = {"type": "string"}
        for _ in range(150):
            schema = {"type": "object", "properties": {"a": schema}}
        bodies = [
            deep,
            json.dumps(CHAT | {"structured_outputs": {"json": schema}}).encode(),
            json.dumps(CHAT | {"structured_outputs": {"json": "[" * 50_000}}).encode(),
            json.dumps(CHAT | {"structured_outputs": {"regex": "(a+)+" * 2000 + "{1,10000}"}}).encode(),
            json.dumps(
                CHAT | {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}
            ).encode(),
        ]
        for body in bodies:
            answer = await gateway.http.post("/v1/chat/completions", content=body, timeout=30)
            assert answer.status_code in {200, 400}, answer.text
