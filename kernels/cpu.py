"""The ops on a CPU with what PyTorch brings: oneDNN's packed matrices and vectorised elementwise functions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kernels import reference_linear
from kernels.arguments import Embedding, Linear, Matrix


@dataclass(frozen=True, slots=True)
class _PackedLinear:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        # oneDNN refuses an empty batch.
        if not x.shape[0]:
            return x.new_empty(0, self.weight.shape[0])
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]  # noqa: SLF001  the op's name


def pack_linear(matrices: Sequence[Matrix], bias: Tensor | None) -> Linear:
    """Reorder matrices for oneDNN where this PyTorch can; `functional.linear` otherwise.

    Exact fp32 either way. All matrices of one step of SmolLM2-135M (30 layers and lm_head), 2 threads of an AMD Zen 5,
    least of several runs in ms:

        num_tokens                   1     8    32    128
        functional.linear         35.9   100   168    497
        mm, weights transposed    25.1  57.6  93.8    235
        oneDNN, packed            18.1  20.0  31.8   90.3

    A row's result does not depend on the number of rows either, but for the last bit of a single row.
    """
    weight = torch.cat([reference_linear.dequantize(matrix) for matrix in matrices])
    if weight.dtype != torch.float32 or not _has_packed_linear():
        return reference_linear.pack_linear([weight], bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)  # noqa: SLF001
    return _PackedLinear(packed, bias)


@dataclass(frozen=True, slots=True)
class _Embedding:
    weight: Tensor

    def __call__(self, token_ids: Tensor) -> Tensor:
        return self.weight.index_select(0, token_ids)

    def head(self) -> Linear:
        return pack_linear([self.weight], None)


def pack_embedding(matrix: Matrix) -> Embedding:
    """As the reference; the head is a second copy, for oneDNN."""
    return _Embedding(reference_linear.dequantize(matrix))


def _has_packed_linear() -> bool:
    names = ("_reorder_linear_weight", "_linear_pointwise")
    available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return available and all(hasattr(torch.ops.mkldnn, name) for name in names)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As the reference, in one call."""
    return functional.rms_norm(x, weight.shape, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As the reference; the sum is made in `residual`."""
    total = residual.add_(x)
    return functional.rms_norm(total, weight.shape, weight, eps), total


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As the reference, each half written to its place."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    rotated = torch.empty(x.shape, dtype=x.dtype)
    torch.mul(first, cos, out=rotated[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=rotated[..., half:]).addcmul_(first, sin)
    return rotated


def silu_and_mul(x: Tensor) -> Tensor:
    """As the reference, multiplied in place."""
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


def write_kv(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor) -> None:
    """As the reference, by whole rows."""
    key_cache.flatten(0, 1).index_copy_(0, slots, key)
    value_cache.flatten(0, 1).index_copy_(0, slots, value)


def rotate_and_write(
    qkv: Tensor, cos: Tensor, sin: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> Tensor:
    """As the reference, of the parts above."""
    num_kv_heads = key_cache.shape[2]
    rotated = rotate(qkv[:, :-num_kv_heads], cos, sin)
    write_kv(rotated[:, -num_kv_heads:], qkv[:, -num_kv_heads:], key_cache, value_cache, slots)
    return rotated[:, :-num_kv_heads]
