"""Models to run, and transformers as the oracle on the same weights."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gpu_worker.model_runner import ModelRunner
from loadtest.transformers_peer import load_in_transformers
from shared.checkpoint import Checkpoint, resolve


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small models gain nothing from two threads, and lose much where another process wants the second core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def demo() -> Checkpoint:
    return resolve("demo")


@pytest.fixture(scope="session")
def demo_oracle(demo: Checkpoint) -> LlamaForCausalLM:
    """transformers' model of the demo checkpoint, in fp32, with the weights as `gpu_worker.weights` reads them."""
    return load_in_transformers(demo)


@pytest.fixture(scope="session")
def load() -> Callable[..., ModelRunner]:
    """`ModelRunner.load` with small settings."""

    def load_with(checkpoint: Checkpoint, **settings: object) -> ModelRunner:
        defaults: dict[str, object] = {
            "dtype": "auto",
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


@pytest.fixture(scope="session")
def save_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Checkpoint, LlamaForCausalLM]]:
    """Make a random model of two layers and save it as transformers does."""

    def save(**changes: object) -> tuple[Checkpoint, LlamaForCausalLM]:
        torch.manual_seed(0)
        defaults: dict[str, object] = {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 101,
            "max_position_embeddings": 64,
            "initializer_range": 0.2,
            "tie_word_embeddings": False,
        }
        oracle = LlamaForCausalLM(LlamaConfig(**(defaults | changes))).eval()
        for name, parameter in oracle.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.2)
        directory: Path = tmp_path_factory.mktemp("tiny")
        oracle.save_pretrained(directory)
        return Checkpoint("tiny", directory, "huggingface"), oracle

    return save
