"""The random numbers of `kernels.philox`, made where the logits are."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def uniforms_kernel(uniform_ptr, seed_ptr, position_ptr, num_rows, ROWS: tl.constexpr):
    """seeds: [num_rows] as the bits of int64; positions: [num_rows] int64. Grid: (num_rows / ROWS,)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = row < num_rows
    seed = tl.load(seed_ptr + row, mask=is_row, other=0).to(tl.uint64, bitcast=True)
    position = tl.load(position_ptr + row, mask=is_row, other=0).to(tl.uint64, bitcast=True)
    low_place = (position & 0xFFFFFFFF).to(tl.uint32)
    high_place = (position >> 32).to(tl.uint32)
    zeros = tl.zeros([ROWS], tl.uint32)
    high, low, _, _ = tl.philox(seed, low_place, high_place, zeros, zeros)
    bits = ((high >> 6).to(tl.uint64) << 26) | (low >> 6).to(tl.uint64)
    tl.store(uniform_ptr + row, bits.to(tl.float64) * 2.220446049250313e-16, mask=is_row)


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """As `kernels.philox.uniforms`, bit for bit.

    Args:
        seeds: [num_rows] int64, the keys' bits.
        positions: [num_rows] int64.

    Returns:
        [num_rows] float64.
    """
    numbers = torch.empty(len(seeds), dtype=torch.float64, device=seeds.device)
    if len(seeds):
        uniforms_kernel[triton.cdiv(len(seeds), 64),](numbers, seeds, positions, len(seeds), ROWS=64, num_warps=2)
    return numbers
