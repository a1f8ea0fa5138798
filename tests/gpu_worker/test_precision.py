from dataclasses import replace

import pytest
import torch

from gpu_worker.precision import Precision
from kernels.ops import CPU, REFERENCE
from shared.errors import ConfigurationError
from shared.model_config import ModelConfig

CPU_DEVICE, OTHER_DEVICE = torch.device("cpu"), torch.device("meta")
MIXED = replace(CPU, is_mixed_precision=True)
FP32, BF16 = torch.float32, torch.bfloat16


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig.from_huggingface(
        {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "vocab_size": 100,
            "max_position_embeddings": 128,
            "dtype": "bfloat16",
        }
    )


def test_auto_on_a_cpu_computes_in_fp32_with_the_checkpoints_numbers(config: ModelConfig) -> None:
    assert Precision.choose("auto", config, CPU, CPU_DEVICE) == Precision(FP32, FP32, FP32)
    assert Precision.choose("auto", config, MIXED, CPU_DEVICE) == Precision("stored", FP32, FP32)


def test_auto_elsewhere_is_the_checkpoints_dtype(config: ModelConfig) -> None:
    assert Precision.choose("auto", config, REFERENCE, OTHER_DEVICE) == Precision(BF16, BF16, BF16)


def test_a_named_dtype_is_that_of_matrices_and_cache(config: ModelConfig) -> None:
    assert Precision.choose("bfloat16", config, CPU, CPU_DEVICE) == Precision(BF16, BF16, BF16)
    assert Precision.choose("bfloat16", config, MIXED, CPU_DEVICE) == Precision(BF16, FP32, BF16)
    assert Precision.choose("float32", config, MIXED, CPU_DEVICE) == Precision(FP32, FP32, FP32)


def test_an_unknown_dtype_is_refused(config: ModelConfig) -> None:
    with pytest.raises(ConfigurationError, match="--dtype 'int3' is not served; use auto, float32"):
        Precision.choose("int3", config, CPU, CPU_DEVICE)


def test_it_says_what_it_is(config: ModelConfig) -> None:
    found = str(Precision.choose("float16", config, MIXED, CPU_DEVICE))
    assert found == "float16 matrices, float32 activations, float16 cache"
