"""Makes a quantized checkpoint out of a model's directory: each weight rounded to the nearest number of the format.

Nothing is calibrated: AWQ and GPTQ choose better numbers by looking at activations, and write the same formats.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpu_worker.weights import shard_paths
from kernels.integer_matrices import pack
from shared.checkpoint import Checkpoint
from shared.config_fields import read_json
from shared.errors import CheckpointError, ConfigurationError
from shared.model_config import ModelConfig

_AWQ_ORDER: Final = [0, 2, 4, 6, 1, 3, 5, 7]
"""Columns of a word, from its lowest nibble on."""
_FP8_BLOCK: Final = 128
_FP8_MOST: Final = 448.0
_LEAST: Final = 1e-6
"""Scales are no less, so that fp16 holds them."""

_Layer = dict[str, Tensor]
"""A layer's tensors by their last names."""


def _awq(weight: Tensor, group_size: int) -> _Layer:
    groups = _groups(weight, group_size)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scales = ((high - low) / 15).clamp(min=_LEAST).half()
    zeros = (-low / scales.float()).round().clamp(0, 15)
    quants = ((groups / scales.float()[..., None]).round() + zeros[..., None]).clamp(0, 15).flatten(1)

    def columns(numbers: Tensor) -> Tensor:
        return pack(numbers.reshape(len(numbers), -1, 8)[..., _AWQ_ORDER].flatten(-2), 4)

    return {
        "qweight": columns(quants.T.int()),
        "qzeros": columns(zeros.T.int()),
        "scales": scales.T.contiguous(),
    }


def _gptq(weight: Tensor, group_size: int) -> _Layer:
    groups = _groups(weight, group_size)
    scales = (groups.abs().amax(-1) / 7.5).clamp(min=_LEAST).half()
    quants = ((groups / scales.float()[..., None]).round() + 8).clamp(0, 15).flatten(1).int()
    return {
        "qweight": pack(quants, 4).T.contiguous(),
        "qzeros": pack(torch.full(scales.T.shape, 7), 4),
        "scales": scales.T.contiguous(),
        "g_idx": (torch.arange(weight.shape[1]) // group_size).int(),
    }


def _fp8(weight: Tensor, _: int) -> _Layer:
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % _FP8_BLOCK, 0, -rows % _FP8_BLOCK))
    blocks = padded.view(-(-rows // _FP8_BLOCK), _FP8_BLOCK, -1, _FP8_BLOCK)
    scales = (blocks.abs().amax((1, 3)) / _FP8_MOST).clamp(min=_LEAST)
    rounded = (blocks / scales[:, None, :, None]).flatten(2, 3).flatten(0, 1)[:rows, :columns]
    return {"weight": rounded.to(torch.float8_e4m3fn).contiguous(), "weight_scale_inv": scales}


def _int8(weight: Tensor, _: int) -> _Layer:
    scales = (weight.abs().amax(1, keepdim=True) / 127).clamp(min=_LEAST).half().float()
    return {"weight": (weight / scales).round().clamp(-127, 127).to(torch.int8), "weight_scale": scales}


def _groups(weight: Tensor, group_size: int) -> Tensor:
    return weight.view(len(weight), -1, group_size)


def _int8_scheme(strategy: str, *, is_dynamic: bool) -> dict[str, object]:
    return {"num_bits": 8, "type": "int", "symmetric": True, "strategy": strategy, "dynamic": is_dynamic}


_FORMATS: Final[Mapping[str, tuple[Callable[[Tensor, int], _Layer], Callable[[int], dict[str, object]]]]] = {
    "awq": (
        _awq,
        lambda size: {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": "gemm"},
    ),
    "gptq": (
        _gptq,
        lambda size: {
            "quant_method": "gptq",
            "bits": 4,
            "group_size": size,
            "sym": True,
            "desc_act": False,
            "checkpoint_format": "gptq",
        },
    ),
    "fp8": (
        _fp8,
        lambda _: {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [_FP8_BLOCK, _FP8_BLOCK],
        },
    ),
    "int8": (
        _int8,
        lambda _: {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "quantization_status": "compressed",
            "ignore": ["lm_head"],
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": _int8_scheme("channel", is_dynamic=False),
                    "input_activations": _int8_scheme("token", is_dynamic=True),
                }
            },
        },
    ),
}
"""How each format rounds a matrix, and its `quantization_config`."""

FORMATS: Final = tuple(_FORMATS)


def write_quantized(checkpoint: Checkpoint, target: Path, *, to: str, group_size: int = 128) -> int:
    """Write a checkpoint whose layers' matrices are quantized; embeddings, routers and the head stay as they are.

    Args:
        checkpoint: A Hugging Face directory.
        target: The new directory.
        to: One of `FORMATS`.
        group_size: Columns that share a scale, of "awq" and "gptq".

    Returns:
        How many matrices were quantized.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is quantized.
        ConfigurationError: the target is there, or the groups do not fit the matrices.
    """
    if checkpoint.format != "huggingface":
        raise CheckpointError(f"{checkpoint.path} is a GGUF file, which is quantized already; name a directory")
    if to not in FORMATS:
        raise ConfigurationError(f"--to {to!r} is not known; use {', '.join(FORMATS)}")
    config = ModelConfig.from_checkpoint(checkpoint)
    if config.quantization is not None or not config.is_native:
        why = "is quantized already" if config.is_native else "is of a kind that only transformers' code computes"
        raise CheckpointError(f"{checkpoint.path} {why}; name the unquantized checkpoint of a family that is served")
    if target.exists() and any(target.iterdir()):
        raise ConfigurationError(f"-o {target} is not empty; name a new directory")
    target.mkdir(parents=True, exist_ok=True)
    own_files = {"config.json", _INDEX}
    for path in checkpoint.path.iterdir():
        if path.is_file() and path.suffix in _COPIED and path.name not in own_files:
            shutil.copyfile(path, target / path.name)
    count = 0
    shards: dict[str, str] = {}
    for path in shard_paths(checkpoint.path):
        tensors: _Layer = {}
        for name, parts in _rounded(path, to, group_size):
            count += len(parts) > 1
            tensors |= {f"{name.removesuffix('weight')}{last}" if last else name: part for last, part in parts.items()}
        save_file(tensors, target / path.name, metadata={"format": "pt"})
        shards |= dict.fromkeys(tensors, path.name)
    if len(set(shards.values())) > 1:
        (target / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}, indent=2), encoding="utf-8")
    written = {**read_json(checkpoint.path / "config.json"), "quantization_config": _FORMATS[to][1](group_size)}
    (target / "config.json").write_text(json.dumps(written, indent=2), encoding="utf-8")
    return count


_INDEX: Final = "model.safetensors.index.json"
_COPIED: Final = (".json", ".jinja", ".model", ".txt")


def _rounded(path: Path, to: str, group_size: int) -> Iterator[tuple[str, _Layer]]:
    """A shard's tensors, each with what becomes of it; a name of "" is its own."""
    shard: Any = safe_open(path, framework="pt")
    for name in shard.keys():  # noqa: SIM118  not a mapping
        tensor: Tensor = shard.get_tensor(name)
        is_matrix = tensor.dim() == 2 and ".layers." in name and not name.endswith("gate.weight")  # noqa: PLR2004
        if not is_matrix:
            yield name, {"": tensor}
            continue
        rows, columns = tensor.shape
        if to in ("awq", "gptq") and (columns % group_size or group_size % 8 or rows % 8):
            raise ConfigurationError(
                f"--group-size {group_size} does not fit {name} of {rows} rows and {columns} columns; "
                "columns must be a multiple of it, it and the rows of 8: try 64 or 32, or --to fp8 or int8"
            )
        yield name, _FORMATS[to][0](tensor.float(), group_size)
