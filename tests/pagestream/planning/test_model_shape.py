import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pagestream.planning.model_shape import ModelShape
from pagestream.planning.model_source import find_shape
from pagestream.planning.published_models import PUBLISHED_NAMES, published_config
from shared.errors import CheckpointError

PUBLISHED_COUNTS = {
    "Llama-2-7b": 6_738_415_616,
    "Llama-2-13b": 13_015_864_320,
    "Llama-2-70b": 68_976_648_192,
    "Llama-3-8B": 8_030_261_248,
    "Llama-3-70B": 70_553_706_496,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "Llama-3.1-405B": 405_853_388_800,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.3-70B": 70_553_706_496,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Mixtral-8x7B-v0.1": 46_702_792_704,
    "Phi-3-mini-4k": 3_821_079_552,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-32B": 32_762_123_264,
    "SmolLM2-135M": 134_515_008,
    "TinyLlama-1.1B": 1_100_048_384,
}
"""Parameters as the hub counts them in each model's safetensors."""

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_well_known_models_have_as_many_parameters_as_their_files(name: str) -> None:
    assert find_shape(name).num_parameters == PUBLISHED_COUNTS[name]


@pytest.mark.parametrize(
    "name",
    ["llama-3-70b", "Llama-3-70B-Instruct", "meta-llama/Meta-Llama-3-70B", "meta-llama/Meta-Llama-3-70B-Instruct"],
)
def test_a_well_known_model_is_known_however_it_is_written(name: str) -> None:
    assert find_shape(name) == find_shape("Llama-3-70B")


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
        ("MistralConfig", {"head_dim": 32}),
        ("Qwen2Config", {"tie_word_embeddings": True}),
        ("Qwen3Config", {"head_dim": 32}),
        ("Phi3Config", {}),
        ("MixtralConfig", {"num_local_experts": 4}),
        ("Qwen3MoeConfig", {"num_experts": 8, "moe_intermediate_size": 48}),
        ("Qwen2MoeConfig", {"num_experts": 6, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 80}),
        ("Gemma2Config", {"head_dim": 32}),
        ("Gemma3TextConfig", {"head_dim": 32}),
        ("SmolLM3Config", {}),
        ("Olmo2Config", {}),
        ("GraniteConfig", {"attention_bias": True}),
    ],
)
def test_parameters_are_those_that_transformers_makes(kind: str, extra: dict[str, Any]) -> None:
    config = getattr(transformers, kind)(**SIZES, **extra)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shape = ModelShape.from_config(config.to_dict())
    assert shape.num_parameters == model.num_parameters()
    assert shape.head_dim == extra.get("head_dim", shape.head_dim)


@pytest.mark.model
def test_a_gguf_file_tells_the_same_as_the_config_that_it_was_made_from() -> None:
    demo, published = find_shape("demo"), find_shape("SmolLM2-135M")
    assert demo.num_matrix_parameters == published.num_matrix_parameters
    assert demo.num_other_parameters == published.num_other_parameters
    assert (demo.num_key_value_heads, demo.head_dim, demo.max_context) == (3, 64, 8192)
    assert demo.stored_bytes is not None
    assert 4 * demo.num_parameters < 8 * demo.stored_bytes < 6 * demo.num_parameters


def test_a_directory_or_its_config_is_planned_with_the_size_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(published_config("Llama-3-8B")))
    assert find_shape(str(tmp_path)).stored_bytes is None
    for part in ("a", "b"):
        (tmp_path / f"{part}.safetensors").write_bytes(bytes(500))
    for model in (tmp_path, tmp_path / "config.json"):
        shape = find_shape(str(model))
        assert shape.stored_bytes == 1000
        assert shape.num_parameters == PUBLISHED_COUNTS["Llama-3-8B"]


def test_what_cannot_be_planned_says_why(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file, no directory and no well-known name.*Llama-3-70B"):
        find_shape("llama-17")
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "mamba"}')
    with pytest.raises(CheckpointError, match="model_type 'mamba' cannot be planned"):
        find_shape(str(config))
    config.write_text('{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}')
    with pytest.raises(CheckpointError, match="num_attention_heads is missing, expected int"):
        find_shape(str(config))
    config.write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json"):
        find_shape(str(tmp_path))
