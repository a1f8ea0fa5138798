"""A checkpoint's tensors by transformers' names, wherever they are: safetensors shards or a GGUF file."""

import json
import re
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile
from shared.model_config import ModelConfig


class Weights(Protocol):
    """Reads tensors in the dtype and on the device the model computes in."""

    def get(self, name: str) -> Tensor:
        """A tensor by its name in transformers.

        Raises:
            CheckpointError: it is not there, or cannot be read.
        """

    def rotary_divisors(self) -> Tensor | None:
        """[head_dim / 2] float32, what the checkpoint divides the rotary frequencies by; None if it does not say."""


def open_weights(checkpoint: Checkpoint, config: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> Weights:
    """The reader for a checkpoint's format.

    Raises:
        CheckpointError: its files cannot be read.
    """
    if checkpoint.format == "gguf":
        return GGUFWeights(GGUFFile.open(checkpoint.path), config, dtype=dtype, device=device)
    return SafetensorsWeights(checkpoint.path, dtype=dtype, device=device)


class SafetensorsWeights:
    """The shards of a Hugging Face directory."""

    def __init__(self, directory: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        self._directory = directory
        self._dtype = dtype
        self._device = device
        self._shards: dict[str, Any] = {}
        try:
            for path in _shards(directory):
                shard: Any = safe_open(path, framework="pt")
                self._shards.update(dict.fromkeys(shard.keys(), shard))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"cannot read the safetensors of {directory}: {error}; fetch them again") from error

    def get(self, name: str) -> Tensor:
        """See `Weights`."""
        if name not in self._shards:
            raise CheckpointError(f"{self._directory} has no tensor {name}")
        tensor: Tensor = self._shards[name].get_tensor(name)
        return tensor.to(self._device, self._dtype)

    def rotary_divisors(self) -> None:
        """Hugging Face says it in config.json."""
        return


def _shards(directory: Path) -> list[Path]:
    """The files that belong together: a repository may hold its weights twice."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [directory / name for name in dict.fromkeys(names)]
    single = directory / "model.safetensors"
    return [single] if single.is_file() else sorted(directory.glob("*.safetensors"))


_GGUF_NAMES: Final = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class GGUFWeights:
    """A GGUF file of the llama architecture."""

    def __init__(self, file: GGUFFile, config: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> None:
        self._file = file
        self._dtype = dtype
        self._device = device
        self._rotated_heads = {
            "attn_q": config.num_attention_heads,
            "attn_k": config.num_key_value_heads,
        }

    def get(self, name: str) -> Tensor:
        """See `Weights`."""
        stem, _, suffix = name.rpartition(".")
        layer = re.match(r"model\.layers\.(\d+)\.", stem)
        known = _GGUF_NAMES[stem[layer.end() :] if layer else stem]
        tensor = self._read(f"blk.{layer[1]}.{known}.{suffix}" if layer else f"{known}.{suffix}")
        if known in self._rotated_heads:
            tensor = _to_halves(tensor, self._rotated_heads[known])
        return tensor.to(self._device, self._dtype)

    def rotary_divisors(self) -> Tensor | None:
        """See `Weights`."""
        return self._read("rope_freqs.weight") if "rope_freqs.weight" in self._file.tensors else None

    def _read(self, name: str) -> Tensor:
        if name not in self._file.tensors:
            raise CheckpointError(f"{self._file.path} has no tensor {name}")
        return torch.tensor(self._file.tensors[name].dequantize())


def _to_halves(tensor: Tensor, num_heads: int) -> Tensor:
    """Reorder each head's rows from pairs (0, 1), (2, 3), ... as llama.cpp rotates them, to halves as all others do."""
    pairs = tensor.view(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
