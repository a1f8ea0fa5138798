import asyncio
import contextlib
import os
import re
import signal
import socket
import sys

import httpx
import pytest

from gateway.main import serve
from gateway.settings import GatewaySettings
from gateway.storage.archives import Archives
from gateway.tokenizers.tokenizer import Tokenizer
from shared.memory_bus import MemoryBus
from tests.gateway.conftest import EOS, eventually, running_gateway, says
from tests.gateway.scripted_pool import ScriptedPool

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


async def test_at_a_signal_streams_that_do_not_end_in_time_end_with_an_error_event_and_go_on_elsewhere(
    byte_tokenizer: Tokenizer,
) -> None:
    memory, text, is_open = MemoryBus(), "A tale that takes longer than its gateway.", asyncio.Event()
    tokens = [*text.encode(), EOS]
    pool = ScriptedPool(
        memory, lambda _submit, _choice, position: tokens[position] if position < 9 or is_open.is_set() else None
    )
    pool.step_s = 0.002
    pooling = asyncio.create_task(pool.run())
    await eventually(lambda: memory._state.status is not None)
    settings = GatewaySettings(pool="p", model="tiny", shutdown_timeout=0.2)
    archives = Archives.in_memory(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(serve(settings, memory.gateway(), byte_tokenizer, archives, sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/chat/completions"
        async with httpx.AsyncClient() as http:
            posting = asyncio.create_task(http.post(url, json=BODY, headers={"accept": "text/event-stream"}))
            await eventually(lambda: len(pool.submits) == 1)
            os.kill(os.getpid(), signal.SIGTERM)
            response = await posting
        await serving
    assert "shutting down" in response.text
    assert response.text.endswith("data: [DONE]\n\n")
    assert not pool.cancels

    beginning, _, _ = response.text.rpartition('data: {"error"')
    last_id = beginning.rpartition("id: ")[2].partition("\n")[0]
    is_open.set()
    async with running_gateway(byte_tokenizer, says(""), memory, archives) as other:
        rest = await other.http.post("/v1/chat/completions", headers={"last-event-id": last_id})
        whole = await other.http.get(
            f"/v1/streams/{last_id.partition(':')[0]}", headers={"accept": "text/event-stream"}
        )
    assert beginning + rest.text == whole.text
    assert "".join(re.findall(r'"content":"([^"]+)"', whole.text)) == text
    pooling.cancel()
    await asyncio.gather(pooling, return_exceptions=True)


@pytest.mark.model
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_gateway_process_serves_on_redis_and_ends_cleanly_at_a_signal(redis_url: str, number: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    script = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "from gateway.main import run; from gateway.settings import GatewaySettings\n"
        f"run(GatewaySettings(pool='p', model='demo', port={port}, redis_url={redis_url!r}))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", script, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

        async def is_up() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (await http.get("/ping")).status_code == 200
            return process.returncode is not None

        await eventually(is_up, timeout_s=30)
        health = await http.get("/health")
        assert (health.status_code, health.json()["reason"]) == (503, "no scheduler leads the pool")
        assert (await http.get("/v1/models")).json()["data"][0]["max_model_len"] == 8192
        bad = await http.post("/v1/completions", json={"model": "demo", "prompt": [49152]})
        assert bad.status_code == 400
    process.send_signal(number)
    printed, logged = await process.communicate()
    assert process.returncode == 0, logged
    assert printed == b""
    assert b"Traceback" not in logged
