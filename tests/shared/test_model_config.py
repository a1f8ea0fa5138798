from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile, GGUFTensor
from shared.model_config import ModelConfig
from shared.rotary_config import RopeScaling

LLAMA: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}

LLAMA3_SCALING: dict[str, object] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

GGUF: dict[str, object] = {
    "general.architecture": "llama",
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.block_count": 2,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 128,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def gguf(extra: dict[str, object] | None = None, *names: str) -> GGUFFile:
    tensors = {
        name: GGUFTensor(name, (100, 64), GGMLQuantizationType.F32, np.zeros(0, np.uint8))
        for name in ("token_embd.weight", *names)
    }
    return GGUFFile(Path("some.gguf"), GGUF | (extra or {}), tensors)


def test_transformers_4_and_5_write_the_same_model_differently() -> None:
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": LLAMA3_SCALING, "torch_dtype": "bfloat16"}
    new = LLAMA | {"rope_parameters": LLAMA3_SCALING | {"rope_theta": 5e5}, "dtype": "bfloat16"}
    assert ModelConfig.from_huggingface(old) == ModelConfig.from_huggingface(new)
    config = ModelConfig.from_huggingface(new)
    assert config.rope_theta == 5e5
    assert config.rope_scaling == RopeScaling(rope_type="llama3", factor=8.0, original_max_positions=32)
    assert config.dtype == "bfloat16"


def test_what_config_json_leaves_out_has_transformers_defaults() -> None:
    config = ModelConfig.from_huggingface({**LLAMA, "num_key_value_heads": None, "rope_scaling": None})
    assert config.num_key_value_heads == 8
    assert config.head_dim == 8
    assert config.rope_theta == 10_000.0
    assert config.rope_scaling.rope_type == "default"
    assert (config.tie_word_embeddings, config.attention_bias, config.mlp_bias) == (False, False, False)


def test_end_tokens_of_both_files_are_ends() -> None:
    config = ModelConfig.from_huggingface(LLAMA | {"eos_token_id": 2, "bos_token_id": 1}, {"eos_token_id": [7, 2, 9]})
    assert config.eos_token_ids == (2, 7, 9)
    assert config.bos_token_id == 1


@pytest.mark.parametrize(
    ("scaling", "max_context"),
    [
        ({}, 128),
        ({"type": "linear", "factor": 2.0}, 256),
        ({"rope_type": "dynamic", "factor": 4.0}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        (LLAMA3_SCALING, 128),
    ],
)
def test_scaling_says_how_far_the_model_sees(scaling: dict[str, object], max_context: int) -> None:
    assert ModelConfig.from_huggingface(LLAMA | {"rope_scaling": scaling}).max_context == max_context


@pytest.mark.parametrize(
    ("architecture", "change", "windows"),
    [
        ("MistralForCausalLM", {}, [40, 40, 40, 40]),
        ("MistralForCausalLM", {"sliding_window": None}, [None] * 4),
        ("LlamaForCausalLM", {}, [None] * 4),
        ("Qwen2ForCausalLM", {"max_window_layers": 3}, [None] * 4),
        ("Qwen2ForCausalLM", {"max_window_layers": 3, "use_sliding_window": True}, [None, None, None, 40]),
        ("Gemma2ForCausalLM", {}, [40, None, 40, None]),
        ("Gemma3ForCausalLM", {"sliding_window_pattern": 3}, [40, 40, None, 40]),
        ("Gemma3ForCausalLM", {"layer_types": ["full_attention", "sliding_attention"] * 2}, [None, 40, None, 40]),
    ],
)
def test_layers_have_their_families_windows(
    architecture: str, change: dict[str, object], windows: list[int | None]
) -> None:
    own = {"architectures": [architecture], "sliding_window": 40, "num_hidden_layers": 4}
    config = ModelConfig.from_huggingface(LLAMA | own | change)
    assert [layer.window for layer in config.layers] == windows
    assert config.max_context == 128


def test_layers_with_a_window_may_rotate_otherwise() -> None:
    own = {"architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 6}
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    new = {
        "rope_parameters": {
            "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
        }
    }
    config = ModelConfig.from_huggingface(LLAMA | own | old)
    assert config == ModelConfig.from_huggingface(LLAMA | own | new)
    assert [layer.rotary.theta for layer in config.layers] == [1e4] * 5 + [1e6]
    assert [layer.rotary.scaling.factor for layer in config.layers] == [1.0] * 5 + [8.0]


def test_layers_may_not_rotate_at_all() -> None:
    own = {"architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 4}
    every_fourth = ModelConfig.from_huggingface(LLAMA | own)
    assert [layer.rotary.theta is None for layer in every_fourth.layers] == [False, False, False, True]
    listed = ModelConfig.from_huggingface(LLAMA | own | {"no_rope_layers": [0, 1, 1, 1]})
    assert [layer.rotary.theta is None for layer in listed.layers] == [True, False, False, False]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"architectures": ["UnheardOfForCausalLM"]},
            "'UnheardOfForCausalLM' is not served.*LlamaForCausalLM, MistralForCausalLM.*transformers",
        ),
        ({"architectures": None}, "'none' is not served"),
        ({"hidden_size": None}, "hidden_size is missing, expected int"),
        ({"vocab_size": "many"}, "vocab_size is 'many', expected int"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": "awq"}, "quantization_config is 'awq', expected dict"),
        ({"num_key_value_heads": 3}, "8 attention heads cannot share 3"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "'spiral' is not served.*yarn"),
        ({"rope_scaling": [1]}, "expected an object"),
    ],
)
def test_what_is_not_served_is_named(change: dict[str, object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        ModelConfig.from_huggingface(LLAMA | change)


def test_gguf_metadata_give_the_same_model() -> None:
    config = ModelConfig.from_gguf(gguf())
    expected = ModelConfig.from_huggingface(LLAMA | {"tie_word_embeddings": True})
    assert replace(config, architecture=expected.architecture) == expected


def test_tensors_say_what_gguf_metadata_do_not() -> None:
    config = ModelConfig.from_gguf(gguf(None, "output.weight", "blk.0.attn_q.bias", "blk.0.ffn_up.bias"))
    assert (config.tie_word_embeddings, config.attention_bias, config.mlp_bias) == (False, True, True)


def test_gguf_end_tokens_are_those_named_by_key_and_the_usual_control_tokens() -> None:
    extra: dict[str, object] = {
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 3,
        "tokenizer.ggml.tokens": ["</s>", "a", "<|im_end|>", "<|eot|>", "<|end|>"],
        "tokenizer.ggml.token_type": [3, 1, 3, 3, 1],
    }
    assert ModelConfig.from_gguf(gguf(extra)).eos_token_ids == (0, 3, 2)


def test_gguf_scaling_is_read() -> None:
    extra: dict[str, object] = {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 32,
    }
    scaling = ModelConfig.from_gguf(gguf(extra)).rope_scaling
    assert scaling == RopeScaling(rope_type="yarn", factor=4.0, original_max_positions=32)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"general.architecture": "qwen2"}, "'qwen2' is not served; these are: llama"),
        ({"llama.rope.dimension_count": 4}, "partial rotary"),
        ({"llama.expert_count": 8}, "experts"),
        ({"llama.block_count": None}, r"llama\.block_count is missing"),
    ],
)
def test_gguf_models_that_are_not_served_are_named(change: dict[str, object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        ModelConfig.from_gguf(gguf(change))
