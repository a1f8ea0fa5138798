"""RMSNorm, also of a sum. One program takes one row.

Source: Zhang and Sennrich 2019.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.device import widens
from kernels.triton.launches import num_warps_for_row


@triton.jit
def rms_norm_kernel(
    y_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    row_stride,
    eps,
    SIZE: tl.constexpr,
    PADDED_SIZE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Rounds to the row's dtype after the norm and before the weight, as the reference does. Grid: (num_rows,)."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED_SIZE)
    is_column = column < SIZE
    dtype = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + row * row_stride + column, mask=is_column, other=0.0)
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + row * SIZE + column, mask=is_column, other=0.0)
        x = x.to(tl.float32) + residual.to(tl.float32) if WIDEN else x + residual
        tl.store(residual_ptr + row * SIZE + column, x.to(dtype), mask=is_column)
    wide = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / SIZE + eps)
    weight = tl.load(weight_ptr + column, mask=is_column, other=0.0)
    normed = wide * scale
    y = normed * weight.to(tl.float32) if WIDEN else normed.to(dtype) * weight
    tl.store(y_ptr + row * SIZE + column, y.to(dtype), mask=is_column)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As the reference; rows may lie apart."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(y, x, x, weight, eps, has_residual=False)
    return y


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As the reference; the sum is made in `residual`."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(y, x, residual, weight, eps, has_residual=True)
    return y, residual


def norm_heads(qkv: Tensor, query_weight: Tensor, key_weight: Tensor, eps: float, num_kv_heads: int) -> Tensor:
    """As the reference."""
    query, key, value = qkv[:, : -2 * num_kv_heads], qkv[:, -2 * num_kv_heads : -num_kv_heads], qkv[:, -num_kv_heads:]
    normed = [
        rms_norm(part.reshape(-1, len(weight)), weight, eps).view(part.shape)
        for part, weight in ((query, query_weight), (key, key_weight))
    ]
    return torch.cat((*normed, value), dim=1)


def _launch(y: Tensor, x: Tensor, residual: Tensor, weight: Tensor, eps: float, *, has_residual: bool) -> None:
    num_rows, size = x.shape
    if not num_rows:
        return
    padded = triton.next_power_of_2(size)
    rms_norm_kernel[num_rows,](
        y,
        x,
        residual,
        weight,
        x.stride(0),
        eps,
        SIZE=size,
        PADDED_SIZE=padded,
        HAS_RESIDUAL=has_residual,
        WIDEN=widens(x.dtype),
        num_warps=num_warps_for_row(padded),
    )
