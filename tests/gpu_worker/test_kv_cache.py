import pytest
import torch

from gpu_worker.kv_cache import CacheGeometry, KVCache, bytes_per_block
from kernels.ops import REFERENCE
from shared.errors import ConfigurationError
from shared.model_config import ModelConfig

CPU = torch.device("cpu")
BLOCK_BYTES = 2 * 2 * 16 * 2 * 8 * 4


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig.from_huggingface(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "vocab_size": 100,
            "max_position_embeddings": 128,
        }
    )


def fit(config: ModelConfig, memory_bytes: int, max_model_len: int | None) -> CacheGeometry:
    return CacheGeometry.fit(
        config, block_size=16, dtype=torch.float32, memory_bytes=memory_bytes, max_model_len=max_model_len
    )


def test_a_block_has_keys_and_values_of_every_layer(config: ModelConfig) -> None:
    assert bytes_per_block(config, block_size=16, dtype=torch.float32) == BLOCK_BYTES
    assert bytes_per_block(config, block_size=16, dtype=torch.bfloat16) == BLOCK_BYTES // 2
    num_rows = BLOCK_BYTES // (8 * 4)
    assert bytes_per_block(config, block_size=16, dtype=torch.int8) == num_rows * (8 + 4)


def test_memory_becomes_whole_blocks(config: ModelConfig) -> None:
    assert fit(config, 10 * BLOCK_BYTES - 1, None) == CacheGeometry(16, 9, 128)
    assert fit(config, 7 * BLOCK_BYTES, 100) == CacheGeometry(16, 7, 100)


def test_a_context_that_nobody_asked_for_is_lowered_to_what_fits(
    config: ModelConfig, caplog: pytest.LogCaptureFixture
) -> None:
    assert fit(config, 3 * BLOCK_BYTES, None) == CacheGeometry(16, 3, 48)
    assert "max_model_len is lowered" in caplog.text
    assert f"--kv-cache-memory-bytes {8 * BLOCK_BYTES}" in caplog.text


def test_a_context_that_was_asked_for_is_never_lowered(config: ModelConfig) -> None:
    with pytest.raises(ConfigurationError, match=r"100 tokens.*--kv-cache-memory-bytes.*--max-model-len to 48"):
        fit(config, 3 * BLOCK_BYTES, 100)
    with pytest.raises(ConfigurationError, match="--kv-cache-memory-bytes"):
        fit(config, BLOCK_BYTES - 1, None)
    with pytest.raises(ConfigurationError, match="--max-model-len 129 is more than the model's 128"):
        fit(config, 99 * BLOCK_BYTES, 129)


def test_copies_reach_every_layer_and_nothing_else(config: ModelConfig) -> None:
    cache = KVCache(config, CacheGeometry(16, 5, 80), REFERENCE, dtype=torch.float32, device=CPU)
    for index in range(2):
        for tensor in cache.layer(index):
            tensor.copy_(torch.arange(5.0)[:, None, None, None].expand_as(tensor) + 10 * index)
    cache.copy_blocks([0, 1], [4, 3])
    for index in range(2):
        for tensor in cache.layer(index):
            assert (tensor[:, 0, 0, 0] - 10 * index).tolist() == [0, 1, 2, 1, 0]
