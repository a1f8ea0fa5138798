from dataclasses import replace

import pytest
import torch

from gpu_worker.precision import Precision
from gpu_worker.quantization import Quantization
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


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", FP32), ("bf16", BF16), ("float16", torch.float16), ("int8", torch.int8)]
)
def test_a_cache_may_have_a_dtype_of_its_own(config: ModelConfig, name: str, dtype: torch.dtype) -> None:
    found = Precision.choose("auto", config, MIXED, CPU_DEVICE, kv_cache_dtype=name)
    assert found == Precision("stored", FP32, dtype)


def test_ops_of_one_dtype_keep_their_cache_in_it(config: ModelConfig) -> None:
    assert Precision.choose("auto", config, CPU, CPU_DEVICE, kv_cache_dtype="fp32") == Precision(FP32, FP32, FP32)
    with pytest.raises(ConfigurationError, match="--kv-cache-dtype fp16 needs the native CPU kernels"):
        Precision.choose("auto", config, CPU, CPU_DEVICE, kv_cache_dtype="fp16")


def test_an_unknown_dtype_of_the_cache_is_refused(config: ModelConfig) -> None:
    with pytest.raises(ConfigurationError, match="--kv-cache-dtype 'fp4' is not served; use auto, float32"):
        Precision.choose("auto", config, MIXED, CPU_DEVICE, kv_cache_dtype="fp4")


@pytest.mark.parametrize("name", list(Quantization))
def test_a_quantization_rounds_from_what_the_dtype_gives(config: ModelConfig, name: str) -> None:
    found = Precision.choose("auto", config, MIXED, CPU_DEVICE, quantization=name)
    assert found == Precision("stored", FP32, FP32, Quantization(name))
    assert f"stored matrices rounded as {name}," in str(found)


def test_an_unknown_quantization_is_refused(config: ModelConfig) -> None:
    with pytest.raises(ConfigurationError, match="--quantization 'q5' is not served; use int8, int8-weight-only, the"):
        Precision.choose("auto", config, MIXED, CPU_DEVICE, quantization="q5")


def test_a_checkpoints_own_format_rounds_nothing(config: ModelConfig) -> None:
    own = replace(config, quantization={"quant_method": "awq", "bits": 4, "group_size": 128})
    found = Precision.choose("auto", own, MIXED, CPU_DEVICE, quantization="awq")
    assert found == Precision.choose("auto", own, MIXED, CPU_DEVICE)
    assert (found.quantization, found.quantization_name) == (None, "awq")
    assert Precision.choose("auto", own, MIXED, CPU_DEVICE, quantization="int8").quantization_name == "int8"
    for wrong in (replace(own, quantization={"quant_method": "gptq"}), config):
        with pytest.raises(
            ConfigurationError, match=r"--quantization awq names.*(gptq|not quantized).*pagestream quantize"
        ):
            Precision.choose("auto", wrong, MIXED, CPU_DEVICE, quantization="awq")


@pytest.mark.parametrize("name", list(Quantization))
def test_ops_of_one_dtype_do_not_quantize(config: ModelConfig, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--quantization {name} needs the native CPU kernels"):
        Precision.choose("auto", config, CPU, CPU_DEVICE, quantization=name)


def test_it_says_what_it_is(config: ModelConfig) -> None:
    found = str(Precision.choose("float16", config, MIXED, CPU_DEVICE))
    assert found == "float16 matrices, float32 activations, float16 cache"


def test_its_parts_have_the_names_that_people_use() -> None:
    exact = Precision("stored", FP32, FP32)
    assert (exact.dtype_name, exact.kv_cache_dtype_name, exact.quantization_name) == ("stored", "float32", "none")
    rounded = Precision(BF16, FP32, torch.int8, Quantization.INT8)
    assert (rounded.dtype_name, rounded.kv_cache_dtype_name, rounded.quantization_name) == ("bfloat16", "int8", "int8")


def test_a_cache_in_fp8_is_for_ops_that_know_it(config: ModelConfig) -> None:
    ops = replace(REFERENCE, caches_fp8=True)
    for name in ("fp8", "fp8_e4m3"):
        found = Precision.choose("auto", config, ops, OTHER_DEVICE, kv_cache_dtype=name)
        assert found == Precision(BF16, BF16, torch.float8_e4m3fn)
    with pytest.raises(ConfigurationError, match=r"--kv-cache-dtype fp8 needs the Triton kernels.*use int8"):
        Precision.choose("auto", config, MIXED, CPU_DEVICE, kv_cache_dtype="fp8")
