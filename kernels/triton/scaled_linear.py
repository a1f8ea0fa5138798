"""Linear layers of 8-bit weights: FP8 with one scale a tensor or one for each 128x128, int8 with one for each row.

On GPUs that multiply e4m3 (sm_89, sm_90a), and for int8, activations are rounded to 8 bits row by row; elsewhere FP8
weights are widened on the way in and activations stay as they are.

Source: DeepSeek-AI 2024 (arXiv 2412.19437) for the blocks; Dettmers et al. 2022 (arXiv 2208.07339) for rows of int8.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.attention_tiles import fp8_to_float
from kernels.triton.device import target_of, widens
from kernels.triton.launches import multiplies_fp8, scaled_linear_launch
from kernels.triton.rounding import round_rows
from kernels.triton.split_depth import add_shares, shares_of, splits_of, store_sums


@triton.jit
def scaled_linear_kernel(
    y_ptr,
    shares_ptr,
    x_ptr,
    x_scales_ptr,
    weight_ptr,
    weight_scales_ptr,
    bias_ptr,
    num_rows,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    OUT_BLOCK: tl.constexpr,
    IN_BLOCK: tl.constexpr,
    HAS_X_SCALES: tl.constexpr,
    IS_FP8_BITS: tl.constexpr,
    IS_INT8: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """x: [num_rows, IN], its scales [num_rows, IN / IN_BLOCK]; weight: [OUT, IN], its scales one for each block.

    Sums of DEPTH products, which share their scales, are scaled and added up in fp32. Grid: (row tiles, column
    tiles, SPLITS).
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row = row < num_rows
    is_column = column < OUT
    NUM_IN_BLOCKS: tl.constexpr = (IN + IN_BLOCK - 1) // IN_BLOCK
    SHARE: tl.constexpr = (IN + DEPTH * SPLITS - 1) // (DEPTH * SPLITS) * DEPTH
    start = tl.program_id(2) * SHARE
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, tl.minimum(start + SHARE, IN), DEPTH):
        k = first + tl.arange(0, DEPTH)
        is_k = k < IN
        x = tl.load(
            x_ptr + row[:, None].to(tl.int64) * IN + k[None, :], mask=is_row[:, None] & is_k[None, :], other=0.0
        )
        weights = tl.load(
            weight_ptr + column[None, :].to(tl.int64) * IN + k[:, None],
            mask=is_column[None, :] & is_k[:, None],
            other=0.0,
        )
        if IS_FP8_BITS:
            weights = fp8_to_float(weights).to(x.dtype)
        if WIDEN:
            x = x.to(tl.float32)
            weights = weights.to(tl.float32)
        if IS_INT8:
            products = tl.dot(x, weights, out_dtype=tl.int32).to(tl.float32)
        else:
            products = tl.dot(x, weights, input_precision="ieee")
        scale_place = (column // OUT_BLOCK) * NUM_IN_BLOCKS + first // IN_BLOCK
        scales = tl.load(weight_scales_ptr + scale_place, mask=is_column, other=0.0)[None, :]
        if HAS_X_SCALES:
            x_scales = tl.load(x_scales_ptr + row * NUM_IN_BLOCKS + first // IN_BLOCK, mask=is_row, other=0.0)
            scales = scales * x_scales[:, None]
        sums += products * scales
    store_sums(y_ptr, shares_ptr, bias_ptr, sums, row, column, num_rows, OUT, HAS_BIAS, SPLITS)


@dataclass(frozen=True, slots=True)
class ScaledLinear:
    """A linear layer of 8-bit weights.

    Attributes:
        weight: [out_features, in_features], float8_e4m3fn or int8.
        scales: [blocks of out_features, blocks of in_features] float32, by which weights are multiplied.
        block: (out, in) of one scale: the weight's shape for one of all, (128, 128), or (1, in_features) for rows.
        bias: [out_features].
        keeps_activations: Multiply FP8 by activations as they are, whatever the GPU can.
    """

    weight: Tensor
    scales: Tensor
    block: tuple[int, int]
    bias: Tensor | None = None
    keeps_activations: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """See `kernels.arguments.Linear`."""
        num_rows = x.shape[0]
        out_features, in_features = self.weight.shape
        y = torch.empty(num_rows, out_features, dtype=x.dtype, device=x.device)
        if not num_rows:
            return y
        target = target_of(x.device)
        is_int8 = self.weight.dtype == torch.int8
        rounds = is_int8 or (multiplies_fp8(target) and not self.keeps_activations)
        widening = widens(x.dtype) and not rounds
        x_scales = self.scales
        x = x.contiguous()
        if rounds:
            x, x_scales = round_rows(x, self.weight.dtype, self.block[1])
        launch = scaled_linear_launch(target, num_rows=num_rows, rounds=rounds, in_block=self.block[1])
        splits = splits_of(launch, num_rows, out_features, in_features, x.device)
        shares = shares_of(y, splits)
        scaled_linear_kernel[triton.cdiv(num_rows, launch.rows), triton.cdiv(out_features, launch.columns), splits](
            y,
            shares,
            x,
            x_scales,
            self.weight if rounds else self.weight.view(torch.uint8),
            self.scales,
            self.scales if self.bias is None else self.bias,
            num_rows,
            OUT=out_features,
            IN=in_features,
            OUT_BLOCK=self.block[0],
            IN_BLOCK=self.block[1],
            HAS_X_SCALES=rounds,
            IS_FP8_BITS=not rounds,
            IS_INT8=is_int8,
            HAS_BIAS=self.bias is not None,
            SPLITS=splits,
            ROWS=launch.rows,
            COLUMNS=launch.columns,
            DEPTH=launch.depth,
            WIDEN=widening,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        add_shares(y, shares, self.bias)
        return y
