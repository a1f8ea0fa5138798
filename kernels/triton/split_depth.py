"""Linear layers whose depth is split among programs: where a share begins, where its sums go, and who adds them up.

Few rows and few columns make fewer programs than a GPU has multiprocessors; each would read its weights alone, one step
after another.

Source: "split-K", Hoque et al. 2024 (arXiv 2402.00025); here without atomics: sums are made in one order.
"""

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.device import num_multiprocessors
from kernels.triton.launches import MAX_DECODE_ROWS, LinearLaunch
from kernels.triton.splits import num_splits

_PROGRAMS_OF_FEW_ROWS, _PROGRAMS_OF_MANY_ROWS = 4, 2
"""For each multiprocessor; measured on an H100. Few rows wait for memory."""
_MIN_STEPS: Final = 4
"""Of a share."""
COLUMNS: Final = 512
"""Of a program that adds up shares."""


@triton.jit
def store_sums(
    y_ptr,
    shares_ptr,
    bias_ptr,
    sums,
    row,
    column,
    num_rows,
    OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """A tile of the output, or of this program's share of it: [SPLITS, num_rows, OUT] float32."""
    place = row[:, None].to(tl.int64) * OUT + column[None, :]
    is_number = (row < num_rows)[:, None] & (column < OUT)[None, :]
    if SPLITS == 1:
        if HAS_BIAS:
            sums += tl.load(bias_ptr + column, mask=column < OUT, other=0.0).to(tl.float32)[None, :]
        tl.store(y_ptr + place, sums.to(y_ptr.dtype.element_ty), mask=is_number)
    else:
        first = tl.program_id(2).to(tl.int64) * num_rows * OUT
        tl.store(shares_ptr + first + place, sums, mask=is_number)


@triton.jit
def add_shares_kernel(
    y_ptr,
    shares_ptr,
    bias_ptr,
    num_rows,
    OUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Grid: (num_rows, column tiles)."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < OUT
    place = tl.program_id(0).to(tl.int64) * OUT + column
    share_size = (tl.zeros([], tl.int64) + num_rows) * OUT
    sums = tl.zeros([COLUMNS], tl.float32)
    for split in range(SPLITS):
        sums += tl.load(shares_ptr + split * share_size + place, mask=is_column, other=0.0)
    if HAS_BIAS:
        sums += tl.load(bias_ptr + column, mask=is_column, other=0.0).to(tl.float32)
    tl.store(y_ptr + place, sums.to(y_ptr.dtype.element_ty), mask=is_column)


def splits_of(launch: LinearLaunch, num_rows: int, out_features: int, in_features: int, device: torch.device) -> int:
    """Among how many programs the depth of a layer is split."""
    each = _PROGRAMS_OF_FEW_ROWS if num_rows <= MAX_DECODE_ROWS else _PROGRAMS_OF_MANY_ROWS
    return num_splits(
        num_programs=triton.cdiv(num_rows, launch.rows) * triton.cdiv(out_features, launch.columns),
        wanted=num_multiprocessors(device) * each,
        most=in_features / (launch.depth * _MIN_STEPS),
    )


def shares_of(y: Tensor, splits: int) -> Tensor:
    """Where `store_sums` puts shares; of no meaning if there is one."""
    return y if splits == 1 else torch.empty(splits, *y.shape, dtype=torch.float32, device=y.device)


def add_shares(y: Tensor, shares: Tensor, bias: Tensor | None) -> None:
    """Let `y` be the sum of its shares, and the bias. Nothing is left to do if there is one share."""
    if shares is y:
        return
    num_rows, out_features = y.shape
    add_shares_kernel[num_rows, triton.cdiv(out_features, COLUMNS)](
        y,
        shares,
        y if bias is None else bias,
        num_rows,
        OUT=out_features,
        HAS_BIAS=bias is not None,
        SPLITS=len(shares),
        COLUMNS=COLUMNS,
    )
