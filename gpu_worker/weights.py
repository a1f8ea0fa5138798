"""A checkpoint's tensors by transformers' names, wherever they are: safetensors shards or a GGUF file."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gpu_worker.checkpoint_formats import CheckpointFormat, QuantizedMatrix
from kernels.arguments import BlockMatrix, IntegerMatrix, Matrix
from kernels.integer_matrices import in_blocks
from kernels.ops import keeps_nothing
from kernels.reference_linear import dequantize, to_device
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile, GGUFTensor
from shared.model_config import ModelConfig

MatrixDtype = torch.dtype | Literal["stored"]
"""What a matrix's numbers are given as; "stored" is as the file has them."""

_STORED_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)


class Weights(Protocol):
    """Reads tensors in the dtype and on the device the model computes in."""

    def get(self, name: str) -> Tensor:
        """A tensor by its name in transformers.

        Raises:
            CheckpointError: it is not there, or cannot be read.
        """

    def matrix(self, name: str) -> Matrix:
        """A matrix by its name in transformers, [out_features, in_features].

        Raises:
            CheckpointError: it is not there, or cannot be read.
        """

    def rotary_divisors(self) -> Tensor | None:
        """[head_dim / 2] float32, what the checkpoint divides the rotary frequencies by; None if it does not say."""


def open_weights(
    checkpoint: Checkpoint,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    matrix_dtype: MatrixDtype | None = None,
    keeps: Callable[[Matrix], bool] = keeps_nothing,
) -> Weights:
    """The reader for a checkpoint's format.

    Args:
        checkpoint: Whose files to read.
        config: Of the model.
        dtype: Of all tensors but the matrices.
        device: To put them on.
        matrix_dtype: Of the matrices; None for `dtype`.
        keeps: Which quantized matrices stay what they are, see `Ops.keeps`.

    Raises:
        CheckpointError: its files cannot be read.
    """
    wanted = _Wanted(dtype, matrix_dtype or dtype, device, keeps)
    quantized = None if config.quantization is None else CheckpointFormat.read(config.quantization)
    if checkpoint.format == "gguf":
        return GGUFWeights(GGUFFile.open(checkpoint.path), config, wanted)
    return SafetensorsWeights(checkpoint.path, wanted, quantized)


@dataclass(frozen=True, slots=True)
class _Wanted:
    dtype: torch.dtype
    matrix_dtype: MatrixDtype
    device: torch.device
    keeps: Callable[[Matrix], bool]

    def tensor(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.device, self.dtype)

    def matrix(self, numbers: Tensor) -> Tensor:
        if self.matrix_dtype != "stored":
            return numbers.to(self.device, self.matrix_dtype)
        return numbers.to(self.device) if numbers.dtype in _STORED_DTYPES else self.tensor(numbers)

    def quantized(self, numbers: QuantizedMatrix) -> Matrix:
        """As it is, or as blocks, where those are multiplied and hold the same numbers."""
        if self.keeps(numbers):
            return to_device(numbers, self.device)
        packed = in_blocks(numbers) if self.matrix_dtype == "stored" and isinstance(numbers, IntegerMatrix) else None
        return self.matrix(dequantize(numbers)) if packed is None else to_device(packed, self.device)


class SafetensorsWeights:
    """The shards of a Hugging Face directory, quantized or not."""

    def __init__(self, directory: Path, wanted: _Wanted, quantized: CheckpointFormat | None) -> None:
        self._directory = directory
        self._quantized = quantized
        self._wanted = wanted
        self._shards: dict[str, Any] = {}
        try:
            for path in shard_paths(directory):
                shard: Any = safe_open(path, framework="pt")
                self._shards.update(dict.fromkeys(shard.keys(), shard))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"cannot read the safetensors of {directory}: {error}; fetch them again") from error

    def get(self, name: str) -> Tensor:
        """See `Weights`."""
        return self._wanted.tensor(self._read(name))

    def matrix(self, name: str) -> Matrix:
        """See `Weights`."""
        found = None if self._quantized is None else self._quantized_matrix(self._quantized, name)
        return self._wanted.matrix(self._read(name)) if found is None else self._wanted.quantized(found)

    def _quantized_matrix(self, quantized: CheckpointFormat, name: str) -> QuantizedMatrix | None:
        layer = name.removesuffix("weight")

        def read(last: str) -> Tensor | None:
            return self._read(layer + last) if layer + last in self._shards else None

        try:
            return quantized.matrix(read)
        except CheckpointError as error:
            raise CheckpointError(f"{self._directory}: {name}: {error}") from error

    def rotary_divisors(self) -> None:
        """Hugging Face says it in config.json."""
        return

    def _read(self, name: str) -> Tensor:
        if name not in self._shards:
            raise CheckpointError(f"{self._directory} has no tensor {name}")
        tensor: Tensor = self._shards[name].get_tensor(name)
        return tensor


def shard_paths(directory: Path) -> list[Path]:
    """The safetensors of a directory that belong together: a repository may hold its weights twice."""
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


_BLOCK_TYPES: Final = (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0)
_DTYPES: Final = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}


class GGUFWeights:
    """A GGUF file of the llama architecture."""

    def __init__(self, file: GGUFFile, config: ModelConfig, wanted: _Wanted) -> None:
        self._file = file
        self._wanted = wanted
        self._rotated_heads = {
            "attn_q": config.num_attention_heads,
            "attn_k": config.num_key_value_heads,
        }

    def get(self, name: str) -> Tensor:
        """See `Weights`."""
        found, known = self._find(name)
        return self._wanted.tensor(self._in_order(_numbers(found), known))

    def matrix(self, name: str) -> Matrix:
        """See `Weights`."""
        found, known = self._find(name)
        if self._wanted.matrix_dtype == "stored" and found.type in _BLOCK_TYPES:
            return BlockMatrix(found.type.name, self._in_order(_blocks(found), known).to(self._wanted.device))
        return self._wanted.matrix(self._in_order(_numbers(found), known))

    def rotary_divisors(self) -> Tensor | None:
        """See `Weights`."""
        found = self._file.tensors.get("rope_freqs.weight")
        return None if found is None else _numbers(found)

    def _find(self, name: str) -> tuple[GGUFTensor, str]:
        """A tensor by its name in transformers, and what llama.cpp calls its layer."""
        stem, _, suffix = name.rpartition(".")
        layer = re.match(r"model\.layers\.(\d+)\.", stem)
        known = _GGUF_NAMES[stem[layer.end() :] if layer else stem]
        own_name = f"blk.{layer[1]}.{known}.{suffix}" if layer else f"{known}.{suffix}"
        if own_name not in self._file.tensors:
            raise CheckpointError(f"{self._file.path} has no tensor {own_name}")
        return self._file.tensors[own_name], known

    def _in_order(self, tensor: Tensor, known: str) -> Tensor:
        return _to_halves(tensor, self._rotated_heads[known]) if known in self._rotated_heads else tensor


def _numbers(tensor: GGUFTensor) -> Tensor:
    """In the dtype they are stored in, in fp32 if that is a type of blocks."""
    if tensor.type in _DTYPES:
        return torch.from_numpy(np.array(tensor.data)).view(_DTYPES[tensor.type]).view(tensor.shape)
    return torch.from_numpy(tensor.dequantize())


def _blocks(tensor: GGUFTensor) -> Tensor:
    """[out_features, in_features / numbers of a block, bytes of a block] u8."""
    block_items, block_bytes = GGML_QUANT_SIZES[tensor.type]
    out_features, in_features = tensor.shape
    return torch.from_numpy(np.array(tensor.data)).view(out_features, in_features // block_items, block_bytes)


def _to_halves(tensor: Tensor, num_heads: int) -> Tensor:
    """Reorder each head's rows from pairs (0, 1), (2, 3), ... as llama.cpp rotates them, to halves as all others do."""
    pairs = tensor.view(num_heads, -1, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)
