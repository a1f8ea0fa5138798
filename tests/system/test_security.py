"""What the services need of Redis and no more; and everything encrypted."""

import asyncio
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import redis

from pagestream.gateway_address import GatewayAddress
from shared.redis_bus import RedisGatewayBus, RedisWorkerBus
from tests.system.processes import FAKE, START_TIMEOUT_S, Services

ACL = Path(__file__).parents[2] / "compose" / "users.acl"
BODY = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "stream": True}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For localhost, signed by itself, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject)
    subprocess.run([*command, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def test_all_services_work_as_a_user_who_may_do_little(tmp_path: Path) -> None:
    rules = next(line for line in ACL.read_text().splitlines() if line.startswith("user pagestream"))
    with Services(tmp_path) as services:
        services.redis.execute_command("ACL", "SETUSER", *rules.replace("PASSWORD", "secret").split()[1:])
        services.redis.execute_command("ACL", "LOG", "RESET")
        socket_path = services.redis_server.url.removeprefix("unix://")
        services.redis_url = f"unix://pagestream:secret@{socket_path}"
        services.start_all(workers=1, worker_flags=FAKE)

        with httpx.Client(base_url=services.base_url, timeout=30) as client:
            streamed = client.post("/v1/chat/completions", json=BODY, headers={"idempotency-key": "a"})
            assert streamed.text.endswith("data: [DONE]\n\n")
            again = client.post("/v1/chat/completions", json=BODY, headers={"idempotency-key": "a"})
            assert again.text == streamed.text
            long = client.post("/v1/completions", json={"model": "demo", "prompt": "Hi", "n": 2, "max_tokens": 3000})
            assert long.json()["usage"]["completion_tokens"] == 6000
            kept = client.post("/v1/responses", json={"model": "demo", "input": "Hi", "max_output_tokens": 4})
            assert client.get(f"/v1/responses/{kept.json()['id']}").status_code == 200
            assert client.delete(f"/v1/responses/{kept.json()['id']}").status_code == 200
        denied = services.redis.execute_command("ACL", "LOG")
        assert denied == []

        with redis.Redis.from_url(services.redis_url, protocol=2) as little:
            for command in (("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("GET", "other"), ("ACL", "LIST")):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    little.execute_command(*command)


@asynccontextmanager
async def tls_in_front_of(path: str, certificate: Path) -> AsyncIterator[int]:
    """A port that speaks TLS, for a server on a socket that does not."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def test_the_bus_speaks_tls_and_checks_who_answers(redis_url: str, certificate: Path) -> None:
    async with tls_in_front_of(redis_url.removeprefix("unix://"), certificate) as port:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}"
        bus = await RedisGatewayBus.connect(url, "tls")
        await bus.heartbeat()
        assert await bus.pool_status() is None
        await bus.close()
        worker = await asyncio.to_thread(RedisWorkerBus.connect, url, "tls")
        await asyncio.to_thread(worker.register)
        await asyncio.to_thread(worker.close)
        with pytest.raises(Exception, match=r"(?i)certificate"):
            await RedisGatewayBus.connect(f"rediss://localhost:{port}/0", "tls")


def test_a_gateway_speaks_https(tmp_path: Path, certificate: Path) -> None:
    with Services(tmp_path) as services:
        gateway = services.start_gateway("--ssl-certfile", str(certificate))
        services.start("scheduler")
        services.start("worker", "demo", *FAKE)
        port = int(services.base_url.rpartition(":")[2])
        deadline = time.monotonic() + START_TIMEOUT_S
        while not GatewayAddress("127.0.0.1", port, is_https=True).is_healthy():
            assert gateway.poll() is None, services.logs()
            assert time.monotonic() < deadline, services.logs()
            time.sleep(0.05)
        assert not GatewayAddress("127.0.0.1", port).is_healthy()
        url, context = f"https://localhost:{port}/ping", ssl.create_default_context(cafile=str(certificate))
        assert httpx.get(url, verify=context).status_code == 200
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
            httpx.get(url)
