"""Linear layers of 4-bit weights, as AWQ and GPTQ store them, and 16-bit activations; unpacked on the way in.

Source: Lin et al. 2023 (AWQ), Frantar et al. 2022 (GPTQ); the layouts are those of AutoAWQ's "gemm" and of AutoGPTQ.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.device import target_of, widens
from kernels.triton.launches import packed_linear_launch


@triton.jit
def packed_linear_kernel(
    y_ptr,
    x_ptr,
    words_ptr,
    zeros_ptr,
    scales_ptr,
    group_index_ptr,
    bias_ptr,
    num_rows,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ZERO_OFFSET: tl.constexpr,
    IS_AWQ: tl.constexpr,
    IS_ORDERED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """x: [num_rows, IN], y: [num_rows, OUT]; the rest as in `PackedLinear`. Grid: (row tiles, column tiles).

    DEPTH divides GROUP_SIZE if the groups are ordered, so that a step has one row of scales.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row = row < num_rows
    is_column = column < OUT
    in_word = column % 8
    # AWQ has column c of eight in nibble [0, 4, 1, 5, 2, 6, 3, 7][c].
    nibble = in_word // 2 + (in_word % 2) * 4 if IS_AWQ else in_word
    zero_shift = nibble * 4
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, IN, DEPTH):
        k = first + tl.arange(0, DEPTH)
        is_k = k < IN
        x = tl.load(
            x_ptr + row[:, None].to(tl.int64) * IN + k[None, :], mask=is_row[:, None] & is_k[None, :], other=0.0
        )
        is_weight = is_k[:, None] & is_column[None, :]
        if IS_AWQ:
            words = tl.load(words_ptr + k[:, None] * (OUT // 8) + (column // 8)[None, :], mask=is_weight, other=0)
            quants = (words >> zero_shift[None, :]) & 15
        else:
            words = tl.load(words_ptr + (k // 8)[:, None] * OUT + column[None, :], mask=is_weight, other=0)
            quants = (words >> ((k % 8) * 4)[:, None]) & 15
        if IS_ORDERED:
            group = first // GROUP_SIZE
            scales = tl.load(scales_ptr + group * OUT + column, mask=is_column, other=0.0)[None, :]
            zeros = tl.load(zeros_ptr + group * (OUT // 8) + column // 8, mask=is_column, other=0)
            zeros = ((zeros >> zero_shift) & 15)[None, :]
        else:
            group = tl.load(group_index_ptr + k, mask=is_k, other=0)[:, None]
            scales = tl.load(scales_ptr + group * OUT + column[None, :], mask=is_weight, other=0.0)
            zeros = tl.load(zeros_ptr + group * (OUT // 8) + (column // 8)[None, :], mask=is_weight, other=0)
            zeros = (zeros >> zero_shift[None, :]) & 15
        # Integers up to 16 and their differences are exact in every float.
        steps = (quants - (zeros + ZERO_OFFSET)).to(tl.float32)
        weights = steps * scales.to(tl.float32)
        if WIDEN:
            x = x.to(tl.float32)
        sums = tl.dot(x, weights.to(x.dtype), sums, input_precision="ieee")
    if HAS_BIAS:
        sums += tl.load(bias_ptr + column, mask=is_column, other=0.0).to(tl.float32)[None, :]
    y = y_ptr + row[:, None].to(tl.int64) * OUT + column[None, :]
    tl.store(y, sums.to(y_ptr.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer of 4-bit weights: `(quant - zero - zero_offset) * scale`, eight to a word.

    Attributes:
        words: int32; AWQ: [in_features, out_features / 8], GPTQ: [in_features / 8, out_features].
        zeros: [num_groups, out_features / 8] int32.
        scales: [num_groups, out_features], floats.
        group_index: [in_features] int32, the group of each input (GPTQ's act-order); None where they are in order.
        layout: Of the words.
        zero_offset: 1 for GPTQ's first version, which stores zeros less one; otherwise 0.
        bias: [out_features].
    """

    words: Tensor
    zeros: Tensor
    scales: Tensor
    layout: Literal["awq", "gptq"]
    group_index: Tensor | None = None
    zero_offset: int = 0
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """See `kernels.arguments.Linear`."""
        num_rows, size = x.shape
        num_groups, out_features = self.scales.shape
        y = torch.empty(num_rows, out_features, dtype=x.dtype, device=x.device)
        if not num_rows:
            return y
        group_size = size // num_groups
        launch = packed_linear_launch(target_of(x.device), num_rows=num_rows, group_size=group_size)
        packed_linear_kernel[triton.cdiv(num_rows, launch.rows), triton.cdiv(out_features, launch.columns)](
            y,
            x.contiguous(),
            self.words,
            self.zeros,
            self.scales,
            self.words if self.group_index is None else self.group_index,
            self.scales if self.bias is None else self.bias,
            num_rows,
            OUT=out_features,
            IN=size,
            GROUP_SIZE=group_size,
            ZERO_OFFSET=self.zero_offset,
            IS_AWQ=self.layout == "awq",
            IS_ORDERED=self.group_index is None,
            HAS_BIAS=self.bias is not None,
            ROWS=launch.rows,
            COLUMNS=launch.columns,
            DEPTH=launch.depth,
            WIDEN=widens(x.dtype),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        return y
