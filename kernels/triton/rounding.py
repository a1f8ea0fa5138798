"""Rounds rows of activations to 8 bits, each by its own largest number: what a row becomes depends on itself alone."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.attention_tiles import float_to_fp8
from kernels.triton.launches import num_warps_for_row


@triton.jit
def round_rows_kernel(
    steps_ptr, scales_ptr, x_ptr, SIZE: tl.constexpr, GROUP: tl.constexpr, PADDED: tl.constexpr, IS_FP8: tl.constexpr
):
    """x: [num_rows, SIZE]; steps alike, in fp8's bits or int8; scales: [num_rows, SIZE / GROUP], rounded up.

    PADDED: GROUP up to a power of 2. Grid: (num_rows, groups of a row).
    """
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    column = group * GROUP + tl.arange(0, PADDED)
    is_column = (tl.arange(0, PADDED) < GROUP) & (column < SIZE)
    x = tl.load(x_ptr + row * SIZE + column, mask=is_column, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(x), 0)
    most = 448.0 if IS_FP8 else 127.0
    scale = tl.where(largest > 0, largest / most, 1.0)
    steps = x / scale
    if IS_FP8:
        tl.store(steps_ptr + row * SIZE + column, float_to_fp8(steps), mask=is_column)
    else:
        # To the nearest, ties to even: 1.5 * 2 ** 23 has steps of 1.
        nearest = (steps + 12582912.0) - 12582912.0
        tl.store(steps_ptr + row * SIZE + column, nearest.to(tl.int8), mask=is_column)
    tl.store(scales_ptr + row * tl.num_programs(1) + group, scale)


def round_rows(x: Tensor, dtype: torch.dtype, group_size: int) -> tuple[Tensor, Tensor]:
    """Round each group of a row: to fp8 (e4m3) of up to 448, or to int8 of up to 127.

    Args:
        x: [num_rows, size].
        dtype: `torch.float8_e4m3fn` or `torch.int8`.
        group_size: Numbers of a row that share a scale.

    Returns:
        [num_rows, size] in that dtype, and scales [num_rows, size / group_size, rounded up] float32.
    """
    num_rows, size = x.shape
    num_groups = triton.cdiv(size, group_size)
    steps = torch.empty(num_rows, size, dtype=dtype, device=x.device)
    scales = torch.empty(num_rows, num_groups, dtype=torch.float32, device=x.device)
    is_fp8 = dtype == torch.float8_e4m3fn
    padded = triton.next_power_of_2(group_size)
    if num_rows:
        round_rows_kernel[num_rows, num_groups](
            steps.view(torch.uint8) if is_fp8 else steps,
            scales,
            x.contiguous(),
            SIZE=size,
            GROUP=group_size,
            PADDED=padded,
            IS_FP8=is_fp8,
            num_warps=num_warps_for_row(padded),
        )
    return steps, scales
