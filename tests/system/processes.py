"""The services as a person deploys them: one process each, on a real Redis."""

from __future__ import annotations  # array[int] is a type from Python 3.12 on

import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
import redis

from shared.archive import Kind
from shared.ids import GatewayId, Handle, WorkerId
from shared.kept_outputs import KeptOutput, OutputAddress
from shared.keys import PoolKeys
from shared.messages import StepResult, decode
from shared.redis_server import RedisServer

KEYS = PoolKeys("default")
START_TIMEOUT_S = 120.0
FAKE = ("--runner", "fake", "--max-model-len", "4096")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Services:
    """A pool on this machine, its processes started and killed one by one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cleanup = ExitStack()
        self.redis_server = self._cleanup.enter_context(RedisServer())
        self.redis = self._cleanup.enter_context(redis.Redis.from_url(self.redis_server.url, protocol=2))
        self.redis_url = self.redis_server.url
        self.processes: list[subprocess.Popen[bytes]] = []
        self.base_url = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._cleanup.close()

    def start(self, service: str, *flags: str) -> subprocess.Popen[bytes]:
        log = (self._directory / f"{service}-{len(self.processes)}.log").open("wb")
        command = [sys.executable, "-m", "pagestream", service, "--redis-url", self.redis_url, *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"PYTHONWARNINGS": ""})
        log.close()
        self.processes.append(process)
        return process

    def start_gateway(self, *flags: str) -> subprocess.Popen[bytes]:
        port = free_port()
        self.base_url = f"http://127.0.0.1:{port}"
        return self.start("gateway", "demo", "--port", str(port), *flags)

    def start_all(self, *, workers: int = 1, worker_flags: tuple[str, ...] = FAKE) -> list[subprocess.Popen[bytes]]:
        """Scheduler, gateway and workers, ready to serve; returns the workers."""
        self.start("scheduler")
        self.start_gateway()
        started = [self.start("worker", "demo", *worker_flags) for _ in range(workers)]
        self.wait_for_workers(workers)
        return started

    def wait_for_workers(self, count: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                health = httpx.get(f"{self.base_url}/health")
            except httpx.TransportError:
                health = None
            if health is not None and health.status_code == 200 and len(self.live_workers()) >= count:
                return
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.05)

    def live_workers(self) -> list[str]:
        return [key.decode() for key in self.redis.scan_iter(KEYS.worker("*"))]  # type: ignore[arg-type]

    def writers(self) -> list[WorkerId]:
        """Everyone who has a log."""
        return [WorkerId(name.decode()) for name in self.redis.zrange(KEYS.writers, 0, -1)]

    def results(self, writer: WorkerId) -> dict[bytes, StepResult]:
        """What stands in a log, by its ids there."""
        entries = self.redis.xrange(KEYS.results(writer))
        return {entry: decode(fields[b"d"], StepResult) for entry, fields in entries if fields[b"d"]}

    def kept_outputs(self) -> list[array[int]]:
        """What is kept of outputs beside the logs."""
        keys = self.redis.scan_iter(KEYS.output(OutputAddress(GatewayId("*"), Handle(0))).removesuffix("0") + "*")
        return [KeptOutput.read(data).tokens for key in keys if (data := self.redis.get(key))]

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in self._directory.glob("*.log")
        )

    def assert_nothing_is_left(self, *, timeout_s: float = 15.0) -> None:
        """All blocks free, no request queued or pending, no key of a request."""
        deadline = time.monotonic() + timeout_s
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, left

    def _left(self) -> dict[str, object]:
        metrics = dict(
            line.rsplit(" ", 1)
            for line in httpx.get(f"{self.base_url}/metrics").text.splitlines()
            if line and not line.startswith("#")
        )
        gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        left: dict[str, object] = {
            name: value
            for name, value in metrics.items()
            if name.startswith(tuple(f"vllm:{gauge}" for gauge in gauges)) and float(value)
        }
        for stream in (KEYS.requests, KEYS.control):
            if self.redis.xlen(stream):
                left[stream] = self.redis.xlen(stream)
            if self.redis.exists(stream) and (pending := self.redis.xpending(stream, "sched")["pending"]):
                left[f"{stream} pending"] = pending
        lasting = ("req", "ctl", "lead", "epoch", "status", "writers", "wseq", "dlq")
        expected = (*lasting, "w:", "wc:", "g:", "plan:", "res:")
        kept = (*(f"{kind}:" for kind in Kind), "usage:")
        strange = []
        for key in self.redis.scan_iter():
            name = key.decode().removeprefix("{default}:")
            expires = self.redis.ttl(key) != -1  # -2 if it has expired meanwhile
            if not (name.startswith(expected) or (name.startswith(kept) and expires)):
                strange.append(name)
        if strange:
            left["keys"] = strange
        return left
