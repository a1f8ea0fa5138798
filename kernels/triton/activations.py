"""Gated activations of a linear unit: `f(gate) * up`.

Source: Shazeer 2020 (SwiGLU, GEGLU).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.attention_tiles import tanh
from kernels.triton.device import widens

COLUMNS = 1024
"""Of one program."""


@triton.jit
def gate_and_mul_kernel(y_ptr, x_ptr, size, COLUMNS: tl.constexpr, IS_GELU: tl.constexpr, WIDEN: tl.constexpr):
    """x: [num_rows, 2 * size], gates first; y: [num_rows, size]. Grid: (num_rows, columns / COLUMNS)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_column = column < size
    dtype = x_ptr.dtype.element_ty
    gate = tl.load(x_ptr + row * 2 * size + column, mask=is_column, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + row * 2 * size + size + column, mask=is_column, other=0.0)
    if IS_GELU:
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        activated = 0.5 * gate * (1.0 + tanh(inner))
    else:
        activated = gate / (1.0 + tl.exp(-gate))
    y = activated * up.to(tl.float32) if WIDEN else activated.to(dtype) * up
    tl.store(y_ptr + row * size + column, y.to(dtype), mask=is_column)


def silu_and_mul(x: Tensor) -> Tensor:
    """As the reference."""
    return _gate_and_mul(x, is_gelu=False)


def gelu_and_mul(x: Tensor) -> Tensor:
    """As `silu_and_mul`, by GELU as tanh approximates it."""
    return _gate_and_mul(x, is_gelu=True)


def _gate_and_mul(x: Tensor, *, is_gelu: bool) -> Tensor:
    num_rows, size = x.shape[0], x.shape[1] // 2
    y = torch.empty(num_rows, size, dtype=x.dtype, device=x.device)
    if num_rows:
        grid = (num_rows, triton.cdiv(size, COLUMNS))
        gate_and_mul_kernel[grid](
            y, x.contiguous(), size, COLUMNS=COLUMNS, IS_GELU=is_gelu, WIDEN=widens(x.dtype), num_warps=4
        )
    return y
