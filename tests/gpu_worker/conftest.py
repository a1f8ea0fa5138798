"""Tiny models to run, and transformers as the oracle on the same weights."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shared.checkpoint import Checkpoint


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small models gain nothing from two threads, and lose much where another process wants the second core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
