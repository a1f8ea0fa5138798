"""Linear layers of 4-bit weights and 16-bit activations. Few rows: unpacked on the way in; many: unpacked before.

A kernel that unpacks computes less than one that does not, and each tile of rows unpacks all weights anew: from some
number of rows on it is faster to write the weights out once, and to leave the product to cuBLAS.

Source: Lin et al. 2023 (AWQ), Frantar et al. 2022 (GPTQ).
"""

from dataclasses import dataclass
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.device import target_of, widens
from kernels.triton.launches import packed_linear_launch
from kernels.triton.split_depth import add_shares, shares_of, splits_of, store_sums

MAX_UNPACKING_ROWS: Final = 128
"""Above it weights are written out."""
UNPACKED_WORDS, UNPACKED_COLUMNS = 16, 128
"""Of a program that writes weights out."""


@triton.jit
def load_weights(
    words_ptr,
    zeros_ptr,
    scales_ptr,
    first,
    column,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ZERO_OFFSET: tl.constexpr,
    WORDS: tl.constexpr,
):
    """`quant - zero - ZERO_OFFSET` of WORDS * 8 inputs from `first` on, all in one group, and their scales.

    Returns:
        [inputs, columns] and [columns], float32.
    """
    is_column = column < OUT
    word = first // 8 + tl.arange(0, WORDS)
    is_word = (word < IN // 8)[:, None] & is_column[None, :]
    words = tl.load(words_ptr + word[:, None] * OUT + column[None, :], mask=is_word, other=0)
    quants = (words[:, None, :] >> (tl.arange(0, 8) * 4)[None, :, None]) & 15
    quants = tl.reshape(quants, [WORDS * 8, column.shape[0]])
    group = first // GROUP_SIZE
    zeros = tl.load(zeros_ptr + group * (OUT // 8) + column // 8, mask=is_column, other=0)
    zeros = ((zeros >> (column % 8) * 4) & 15) + (8388608 + ZERO_OFFSET)
    scales = tl.load(scales_ptr + group * OUT + column, mask=is_column, other=0.0).to(tl.float32)
    # 2**23 + quant has the quant for its last bits: cheaper than to convert it.
    return (quants | 0x4B000000).to(tl.float32, bitcast=True) - zeros.to(tl.float32)[None, :], scales


@triton.jit
def packed_linear_kernel(
    y_ptr,
    shares_ptr,
    x_ptr,
    words_ptr,
    zeros_ptr,
    scales_ptr,
    bias_ptr,
    num_rows,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ZERO_OFFSET: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """x: [num_rows, IN], y: [num_rows, OUT]; the rest as in `PackedLinear`. Grid: (row tiles, column tiles, SPLITS).

    DEPTH divides GROUP_SIZE, so that a step has one row of scales, which then multiplies the step's products. The
    weights, without it, are whole numbers of up to 16: exact in every float.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row = row < num_rows
    SHARE: tl.constexpr = (IN + DEPTH * SPLITS - 1) // (DEPTH * SPLITS) * DEPTH
    start = tl.program_id(2) * SHARE
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, tl.minimum(start + SHARE, IN), DEPTH):
        k = first + tl.arange(0, DEPTH)
        x = tl.load(
            x_ptr + row[:, None].to(tl.int64) * IN + k[None, :], mask=is_row[:, None] & (k < IN)[None, :], other=0.0
        )
        steps, scales = load_weights(
            words_ptr, zeros_ptr, scales_ptr, first, column, OUT, IN, GROUP_SIZE, ZERO_OFFSET, DEPTH // 8
        )
        dtype = tl.float32 if WIDEN else x.dtype
        sums += tl.dot(x.to(dtype), steps.to(dtype), input_precision="ieee") * scales[None, :]
    store_sums(y_ptr, shares_ptr, bias_ptr, sums, row, column, num_rows, OUT, HAS_BIAS, SPLITS)


@triton.jit
def unpack_weights_kernel(
    weights_ptr,
    words_ptr,
    zeros_ptr,
    scales_ptr,
    OUT: tl.constexpr,
    IN: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    ZERO_OFFSET: tl.constexpr,
    WORDS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """weights: [IN, OUT]. WORDS * 8 divides GROUP_SIZE. Grid: (input tiles, column tiles)."""
    first = tl.program_id(0) * WORDS * 8
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    steps, scales = load_weights(
        words_ptr, zeros_ptr, scales_ptr, first, column, OUT, IN, GROUP_SIZE, ZERO_OFFSET, WORDS
    )
    k = first + tl.arange(0, WORDS * 8)
    weights = (steps * scales[None, :]).to(weights_ptr.dtype.element_ty)
    is_weight = (k < IN)[:, None] & (column < OUT)[None, :]
    tl.store(weights_ptr + k[:, None].to(tl.int64) * OUT + column[None, :], weights, mask=is_weight)


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer of 4-bit weights: `(quant - zero - zero_offset) * scale`, eight to a word.

    Attributes:
        words: [in_features / 8, out_features] int32; input i of eight is in nibble i; inputs in `input_order`.
        zeros: [num_groups, out_features / 8] int32.
        scales: [num_groups, out_features], floats.
        input_order: [in_features] int64, which input comes where, so that those of a group lie together (GPTQ's
            act-order scatters them); None where they do as they are.
        zero_offset: 1 for GPTQ's first version, which stores zeros less one; otherwise 0.
        bias: [out_features].
    """

    words: Tensor
    zeros: Tensor
    scales: Tensor
    input_order: Tensor | None = None
    zero_offset: int = 0
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """See `kernels.arguments.Linear`."""
        if self.input_order is not None:
            x = x.index_select(1, self.input_order)
        num_rows = x.shape[0]
        if num_rows > MAX_UNPACKING_ROWS:
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return torch.nn.functional.linear(x, self.unpacked(x.dtype).T, bias)
        y = torch.empty(num_rows, self.scales.shape[1], dtype=x.dtype, device=x.device)
        if num_rows:
            self._unpack_on_the_way(x.contiguous(), y)
        return y

    def unpacked(self, dtype: torch.dtype) -> Tensor:
        """The weights, [in_features, out_features]."""
        in_features, out_features = len(self.words) * 8, self.scales.shape[1]
        weights = torch.empty(in_features, out_features, dtype=dtype, device=self.words.device)
        words = min(UNPACKED_WORDS, self._step(UNPACKED_WORDS * 8) // 8)
        grid = (triton.cdiv(in_features, words * 8), triton.cdiv(out_features, UNPACKED_COLUMNS))
        unpack_weights_kernel[grid](
            weights,
            self.words,
            self.zeros,
            self.scales,
            **self._constants(),
            WORDS=words,
            COLUMNS=UNPACKED_COLUMNS,
        )
        return weights

    def _unpack_on_the_way(self, x: Tensor, y: Tensor) -> None:
        num_rows, out_features = y.shape
        launch = packed_linear_launch(target_of(x.device), num_rows=num_rows, group_size=self._group_size)
        splits = splits_of(launch, num_rows, out_features, x.shape[1], x.device)
        shares = shares_of(y, splits)
        packed_linear_kernel[triton.cdiv(num_rows, launch.rows), triton.cdiv(out_features, launch.columns), splits](
            y,
            shares,
            x,
            self.words,
            self.zeros,
            self.scales,
            self.scales if self.bias is None else self.bias,
            num_rows,
            **self._constants(),
            HAS_BIAS=self.bias is not None,
            SPLITS=splits,
            ROWS=launch.rows,
            COLUMNS=launch.columns,
            DEPTH=launch.depth,
            WIDEN=widens(x.dtype),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        add_shares(y, shares, self.bias)

    @property
    def _group_size(self) -> int:
        return len(self.words) * 8 // len(self.scales)

    def _step(self, most: int) -> int:
        """Inputs, a power of 2, of which none are in two groups."""
        return min(most, self._group_size & -self._group_size)

    def _constants(self) -> dict[str, int]:
        return {
            "OUT": self.scales.shape[1],
            "IN": len(self.words) * 8,
            "GROUP_SIZE": self._group_size,
            "ZERO_OFFSET": self.zero_offset,
        }
