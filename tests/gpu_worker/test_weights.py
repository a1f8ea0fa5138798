"""Oracles: `gguf.GGUFReader` and transformers' own loader."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from gpu_worker.models.rotary import RotaryTable
from gpu_worker.weights import open_weights
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.model_config import ModelConfig

CPU = torch.device("cpu")


def write_gguf(path: Path, oracle: LlamaForCausalLM, *, divisors: list[float] | None = None) -> Checkpoint:
    """Write a model as llama.cpp's converter does: its names, its order of q's and k's rows."""
    config, writer = oracle.config, gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in oracle.state_dict().items():
        rows = tensor.numpy()
        for projection, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if projection in name:
                rows = rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), np.ascontiguousarray(rows))
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Checkpoint("written", path, "gguf")


@pytest.mark.parametrize("biased", [False, True])
def test_gguf_names_and_row_order_are_undone(
    biased: bool, tmp_path: Path, save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    _, oracle = save_tiny(attention_bias=biased, mlp_bias=biased)
    checkpoint = write_gguf(tmp_path / "tiny.gguf", oracle)
    config = ModelConfig.from_checkpoint(checkpoint)
    assert (config.attention_bias, config.mlp_bias, config.tie_word_embeddings) == (biased, biased, False)
    weights = open_weights(checkpoint, config, dtype=torch.float32, device=CPU)
    for name, expected in oracle.state_dict().items():
        torch.testing.assert_close(weights.get(name), expected, atol=0, rtol=0)


@pytest.mark.model
def test_the_demo_models_numbers_are_those_of_the_gguf_package(demo: Checkpoint) -> None:
    config = ModelConfig.from_checkpoint(demo)
    weights = open_weights(demo, config, dtype=torch.float32, device=CPU)
    wanted = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.29.attn_norm.weight": "model.layers.29.input_layernorm.weight",
        "blk.3.attn_q.weight": "model.layers.3.self_attn.q_proj.weight",
        "blk.3.attn_k.weight": "model.layers.3.self_attn.k_proj.weight",
    }
    heads = {"blk.3.attn_q.weight": 9, "blk.3.attn_k.weight": 3}
    found = 0
    for tensor in gguf.GGUFReader(demo.path).tensors:
        if tensor.name in wanted:
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if tensor.name in heads:
                expected = expected.reshape(heads[tensor.name], -1, 2, 576).swapaxes(1, 2).reshape(expected.shape)
            assert np.array_equal(weights.get(wanted[tensor.name]).numpy(), expected)
            found += 1
    assert found == len(wanted)


def test_a_gguf_file_may_divide_the_frequencies(
    tmp_path: Path, save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    _, oracle = save_tiny()
    checkpoint = write_gguf(tmp_path / "tiny.gguf", oracle, divisors=[1.0] * 4 + [8.0] * 4)
    config = ModelConfig.from_checkpoint(checkpoint)
    divisors = open_weights(checkpoint, config, dtype=torch.float32, device=CPU).rotary_divisors()
    plain, divided = (
        RotaryTable(config, config.rotary, max_positions=64, dtype=torch.float32, device=CPU, divisors=given)
        for given in (None, divisors)
    )
    torch.testing.assert_close(divided.sin[40, :4], plain.sin[40, :4])
    torch.testing.assert_close(divided.sin[40, 4:], plain.sin[5, 4:])


def test_shards_are_read_by_their_index(
    tmp_path: Path, save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    _, oracle = save_tiny()
    oracle.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    save_file({"model.norm.weight": torch.zeros(64)}, tmp_path / "consolidated.safetensors")
    checkpoint = Checkpoint("sharded", tmp_path, "huggingface")
    config = ModelConfig.from_checkpoint(checkpoint)
    weights = open_weights(checkpoint, config, dtype=torch.float32, device=CPU)
    for name, expected in oracle.state_dict().items():
        torch.testing.assert_close(weights.get(name), expected, atol=0, rtol=0)


def test_narrow_checkpoints_are_widened_exactly(
    tmp_path: Path, save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    _, oracle = save_tiny()
    oracle.to(torch.bfloat16).save_pretrained(tmp_path)
    checkpoint = Checkpoint("narrow", tmp_path, "huggingface")
    config = ModelConfig.from_checkpoint(checkpoint)
    assert config.dtype == "bfloat16"
    found = open_weights(checkpoint, config, dtype=torch.float32, device=CPU).get("model.norm.weight")
    torch.testing.assert_close(found, oracle.state_dict()["model.norm.weight"].float(), atol=0, rtol=0)


def test_what_is_missing_or_broken_is_named(
    tmp_path: Path, save_tiny: Callable[..., tuple[Checkpoint, LlamaForCausalLM]]
) -> None:
    checkpoint, oracle = save_tiny()
    config = ModelConfig.from_checkpoint(checkpoint)
    for known in (checkpoint, write_gguf(tmp_path / "tiny.gguf", oracle)):
        weights = open_weights(known, config, dtype=torch.float32, device=CPU)
        with pytest.raises(CheckpointError, match="has no tensor"):
            weights.get("model.layers.2.mlp.down_proj.weight")
    (tmp_path / "model.safetensors").write_bytes(b"\x10" + bytes(30))
    with pytest.raises(CheckpointError, match="cannot read the safetensors"):
        open_weights(Checkpoint("broken", tmp_path, "huggingface"), config, dtype=torch.float32, device=CPU)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="cannot read the safetensors"):
        open_weights(Checkpoint("broken", tmp_path, "huggingface"), config, dtype=torch.float32, device=CPU)
