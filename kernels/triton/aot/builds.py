"""The kernels in the configurations that production launches, target by target."""

from collections.abc import Iterator, Mapping
from typing import Final

import torch
import triton

from kernels.triton import (
    activations,
    block_copy,
    cache_write,
    norms,
    packed_linear,
    philox,
    rounding,
    sampling,
    split_depth,
)
from kernels.triton.aot.compilation import Build
from kernels.triton.decode_attention import (
    decode_attention_kernel,
    decode_constants,
    merge_constants,
    merge_splits_kernel,
)
from kernels.triton.device import Target
from kernels.triton.launches import (
    decode_launch,
    multiplies_fp8,
    num_warps_for_row,
    packed_linear_launch,
    prefill_launch,
    sample_launch,
    scaled_linear_launch,
)
from kernels.triton.prefill_attention import prefill_attention_kernel, prefill_constants
from kernels.triton.scaled_linear import scaled_linear_kernel

_PLAIN: Final = {
    "HAS_WINDOW": False,
    "HAS_SOFT_CAP": False,
    "HAS_SINKS": False,
    "HAS_ALIBI": False,
    "IS_FP8": False,
    "WIDEN": False,
}
_ATTENTION_TYPES: Final = {
    "key_ptr": "*bf16",
    "value_ptr": "*bf16",
    "output_ptr": "*bf16",
    "query_ptr": "*bf16",
    "block_tables_ptr": "*i32",
    "context_lens_ptr": "*i32",
    "query_start_ptr": "*i32",
    "sinks_ptr": "*fp32",
    "slopes_ptr": "*fp32",
    "num_seqs": "i32",
    "table_stride": "i32",
    "query_stride": "i32",
    "score_scale": "fp32",
    "value_scale": "fp32",
    "soft_cap": "fp32",
    "window": "i32",
}
_SHARE_TYPES: Final = {"sums_ptr": "*fp32", "maxima_ptr": "*fp32", "totals_ptr": "*fp32"}
_FP8: Final = {"key_ptr": "*u8", "value_ptr": "*u8"}

_ATTENTION: Final = {
    # head_dim, group, flags: the models that have them
    "128/4": (128, 4, {}),  # Llama 3, Mistral, Qwen
    "64/3": (64, 3, {}),  # SmolLM
    "80/1": (80, 1, {}),  # Phi-2
    "96/1": (96, 1, {}),  # Phi-3
    "256/2 window, soft cap": (256, 2, {"HAS_WINDOW": True, "HAS_SOFT_CAP": True}),  # Gemma 2
    "64/8 window, sinks": (64, 8, {"HAS_WINDOW": True, "HAS_SINKS": True}),  # gpt-oss
    "128/1 ALiBi": (128, 1, {"HAS_ALIBI": True}),  # MPT, Bloom
    "64/71": (64, 71, {}),  # Falcon
    "128/4 fp8": (128, 4, {"IS_FP8": True}),
    "256/2 fp8, window, soft cap": (256, 2, {"IS_FP8": True, "HAS_WINDOW": True, "HAS_SOFT_CAP": True}),
}
_BLOCK_SIZE: Final = 16
_NUM_KV_HEADS: Final = 8
_SPLITS: Final = 8


_PACKED_TYPES: Final = {"words_ptr": "*i32", "zeros_ptr": "*i32", "scales_ptr": "*bf16"}


def builds(target: Target) -> Iterator[Build]:
    """Every kernel for a target."""
    yield from _attention(target)
    yield from _elementwise(target)
    yield from _linear(target)


QUICK: Final = (
    "prefill 128/4",
    "decode 128/4 fp8",
    "merge 128",
    "add_rms_norm 2048",
    "silu_and_mul",
    "rotate_and_write fp8",
    "copy_blocks",
    "sample",
    "uniforms",
    "round_rows int8",
    "W4A16, 16 rows",
    "unpack W4A16",
    "add_shares",
    "FP8 128x128, 16 rows",
)
"""What the ordinary tests compile: each kernel once."""


def _attention(target: Target) -> Iterator[Build]:
    bf16 = torch.bfloat16
    for name, (head_dim, group, flags) in _ATTENTION.items():
        constants = _PLAIN | flags
        types = _ATTENTION_TYPES | (_FP8 if constants["IS_FP8"] else {})
        launch = prefill_launch(target, head_dim=head_dim, group=group, dtype=bf16)
        yield _build(
            f"prefill {name}",
            prefill_attention_kernel,
            types,
            {**prefill_constants(launch, group, _NUM_KV_HEADS, head_dim, _BLOCK_SIZE), **constants},
            (launch.num_warps, launch.num_stages),
            "wgmma" if target == "sm_90a" else "mma",
        )
        launch = decode_launch(target, head_dim=head_dim, group=group, dtype=bf16)
        yield _build(
            f"decode {name}",
            decode_attention_kernel,
            types | _SHARE_TYPES,
            {**decode_constants(launch, group, _NUM_KV_HEADS, head_dim, _BLOCK_SIZE, _SPLITS), **constants},
            (launch.num_warps, launch.num_stages),
            "mma",
        )
    for head_dim in (64, 128, 256):
        types = _SHARE_TYPES | {"output_ptr": "*bf16", "query_start_ptr": "*i32"}
        merged = merge_constants(_NUM_KV_HEADS * 4, head_dim, _SPLITS)
        yield _build(f"merge {head_dim}", merge_splits_kernel, types, merged)


def _elementwise(target: Target) -> Iterator[Build]:
    for size in (2048, 8192):
        padded = triton.next_power_of_2(size)
        warps = (num_warps_for_row(padded), 2)
        types = {"y_ptr": "*bf16", "x_ptr": "*bf16", "residual_ptr": "*bf16", "weight_ptr": "*bf16"}
        types |= {"row_stride": "i32", "eps": "fp32"}
        constants = {"SIZE": size, "PADDED_SIZE": padded, "HAS_RESIDUAL": True, "WIDEN": False}
        yield _build(f"add_rms_norm {size}", norms.rms_norm_kernel, types, constants, warps)
    types = {"y_ptr": "*bf16", "x_ptr": "*bf16", "size": "i32"}
    for name in ("silu", "gelu"):
        constants = {"COLUMNS": activations.COLUMNS, "IS_GELU": name == "gelu", "WIDEN": False}
        yield _build(f"{name}_and_mul", activations.gate_and_mul_kernel, types, constants)
    for name, cache in (("bf16", "*bf16"), ("fp8", "*u8")):
        types = {"query_ptr": "*bf16", "key_cache_ptr": cache, "value_cache_ptr": cache, "qkv_ptr": "*bf16"}
        types |= {"cos_ptr": "*bf16", "sin_ptr": "*bf16", "slots_ptr": "*i64", "token_stride": "i32"}
        types |= {"inverse_key_scale": "fp32", "inverse_value_scale": "fp32"}
        constants = {"NUM_HEADS": 32, "NUM_KV_HEADS": 8, "HEAD_DIM": 128, "HALF": 64, "PADDED_HALF": 64}
        constants |= {"IS_INTERLEAVED": False, "IS_FP8": name == "fp8", "WIDEN": False}
        yield _build(f"rotate_and_write {name}", cache_write.rotate_and_write_kernel, types, constants, (1, 2))
    types = {"to_ptr": "*i32", "from_ptr": "*i32", "pairs_ptr": "*i64", "block_words": "i32"}
    yield _build("copy_blocks", block_copy.copy_blocks_kernel, types, {"WORDS": block_copy.WORDS})
    types = {
        "token_ptr": "*i64",
        "weights_ptr": "*fp32",
        "logits_ptr": "*fp32",
        "temperature_ptr": "*fp32",
        "top_k_ptr": "*i64",
    }
    types |= {"top_p_ptr": "*fp64", "min_p_ptr": "*fp32", "uniforms_ptr": "*fp64"}
    types |= {"row_stride": "i32", "vocab_size": "i32"}
    launch = sample_launch(target)
    yield _build("sample", sampling.sample_kernel, types, {"COLUMNS": launch.columns}, (launch.num_warps, 2))
    types = {"uniform_ptr": "*fp64", "seed_ptr": "*i64", "position_ptr": "*i64", "num_rows": "i32"}
    yield _build("uniforms", philox.uniforms_kernel, types, {"ROWS": 64}, (2, 2))
    for name, steps, group in (("fp8", "*u8", 128), ("int8", "*i8", 4096)):
        types = {"steps_ptr": steps, "scales_ptr": "*fp32", "x_ptr": "*bf16"}
        constants = {"SIZE": 4096, "GROUP": group, "PADDED": group, "IS_FP8": name == "fp8"}
        yield _build(f"round_rows {name}", rounding.round_rows_kernel, types, constants, (num_warps_for_row(group), 2))


def _linear(target: Target) -> Iterator[Build]:
    four_bits = {"OUT": 6144, "IN": 4096, "GROUP_SIZE": 128, "ZERO_OFFSET": 1}
    constants = four_bits | {"WORDS": packed_linear.UNPACKED_WORDS, "COLUMNS": packed_linear.UNPACKED_COLUMNS}
    yield _build(
        "unpack W4A16", packed_linear.unpack_weights_kernel, {"weights_ptr": "*bf16"} | _PACKED_TYPES, constants
    )
    types = {"y_ptr": "*bf16", "shares_ptr": "*fp32", "bias_ptr": "*bf16", "num_rows": "i32"}
    constants = {"OUT": 6144, "HAS_BIAS": False, "SPLITS": 4, "COLUMNS": split_depth.COLUMNS}
    yield _build("add_shares", split_depth.add_shares_kernel, types, constants)
    shape = {"OUT": 6144, "IN": 4096, "HAS_BIAS": False, "SPLITS": 4, "WIDEN": False}
    for num_rows in (16, 32, 128):
        launch = packed_linear_launch(target, num_rows=num_rows, group_size=128)
        types = {"y_ptr": "*bf16", "shares_ptr": "*fp32", "x_ptr": "*bf16"} | _PACKED_TYPES
        types |= {"bias_ptr": "*bf16", "num_rows": "i32"}
        constants = shape | four_bits | {"ROWS": launch.rows, "COLUMNS": launch.columns, "DEPTH": launch.depth}
        warps = (launch.num_warps, launch.num_stages)
        yield _build(f"W4A16, {num_rows} rows", packed_linear.packed_linear_kernel, types, constants, warps, "mma")
        fp8_rounds = multiplies_fp8(target)
        for name, rounds, weight, block in (
            ("FP8 128x128", fp8_rounds, "*fp8e4nv" if fp8_rounds else "*u8", (128, 128)),
            ("FP8 per tensor", fp8_rounds, "*fp8e4nv" if fp8_rounds else "*u8", (6144, 4096)),
            ("W8A8 int8", True, "*i8", (1, 4096)),
        ):
            launch = scaled_linear_launch(target, num_rows=num_rows, rounds=rounds, in_block=block[1])
            types = {
                "y_ptr": "*bf16",
                "shares_ptr": "*fp32",
                "x_ptr": weight if rounds else "*bf16",
                "x_scales_ptr": "*fp32",
            }
            types |= {"weight_ptr": weight, "weight_scales_ptr": "*fp32", "bias_ptr": "*fp32", "num_rows": "i32"}
            constants = shape | {"OUT_BLOCK": block[0], "IN_BLOCK": block[1], "HAS_X_SCALES": rounds}
            constants |= {"IS_FP8_BITS": not rounds, "IS_INT8": weight == "*i8"}
            constants |= {"ROWS": launch.rows, "COLUMNS": launch.columns, "DEPTH": launch.depth}
            warps = (launch.num_warps, launch.num_stages)
            yield _build(f"{name}, {num_rows} rows", scaled_linear_kernel, types, constants, warps, "mma")


def _build(
    name: str,
    kernel: object,
    types: Mapping[str, str],
    constants: Mapping[str, object],
    warps_and_stages: tuple[int, int] = (4, 2),
    matrix_unit: str | None = None,
) -> Build:
    return Build(name, kernel, types, constants, *warps_and_stages, matrix_unit)
