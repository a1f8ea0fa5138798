"""What tests of several packages share: a real Redis, the demo model, and transformers as its oracle."""

import os

# As in the worker, and as there before torch loads: spinning threads starve a busy machine of two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # isort: split

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from shared.checkpoint import Checkpoint, resolve
from shared.redis_server import RedisServer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from gpu_worker.model_runner import ModelRunner


LONG = ("system", "simulation", "loadtest", "test_layers.py", "kernels", "gpu_worker")
"""What takes long, below this directory."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that two processes that share the files out end together."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=place)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run. A test that kills it starts its own instead."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """That server, empty."""
    with redis.Redis.from_url(redis_server.url, protocol=2) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def demo() -> Checkpoint:
    return resolve("demo")


@pytest.fixture(scope="session")
def demo_oracle(demo: Checkpoint) -> "LlamaForCausalLM":
    """transformers' model of the demo checkpoint, in fp32, with the weights as `gpu_worker.weights` reads them."""
    from loadtest.transformers_peer import load_in_transformers  # imports torch: seconds

    return load_in_transformers(demo)


@pytest.fixture(scope="session")
def load() -> "Callable[..., ModelRunner]":
    """`ModelRunner.load` with small settings."""

    from gpu_worker.model_runner import ModelRunner  # imports torch: seconds

    def load_with(checkpoint: Checkpoint, **settings: object) -> "ModelRunner":
        defaults: dict[str, object] = {
            "dtype": "auto",
            "kv_cache_dtype": "auto",
            "quantization": None,
            "block_size": 16,
            "kv_cache_memory_bytes": 64 << 20,
            "gpu_memory_utilization": 0.9,
            "max_model_len": None,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 1024,
            "enable_prefix_caching": True,
            "device": "cpu",
            "model_name": checkpoint.name,
        }
        return ModelRunner.load(checkpoint, **(defaults | settings))  # type: ignore[arg-type]

    return load_with
