"""The ops on a CPU by our own C++: fp32 activations and sums, weights in the format they are stored in.

Every op's result for a token depends on that token alone, bit for bit: not on its batch, its chunk or the threads.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from kernels import matrix_unit, native_linear
from kernels.arguments import (
    Embedding,
    Linear,
    Matrix,
    PagedAttention,
    PagedBatch,
    SamplingTensors,
)
from kernels.cache_rows import row_size
from kernels.native_calls import NativeCalls
from kernels.native_library import (
    CACHE_FORMATS,
    BatchStruct,
    CacheShapeStruct,
    SamplingStruct,
    address,
    open_library,
)
from kernels.ops import CPU_EFFICIENT_TOKENS, Ops

_MAX_VOCABULARY: Final = 1 << 20
_WIDE_EFFICIENT_TOKENS: Final = 128
"""By AVX-512 and the matrix unit each of 128 rows takes an eighth to a quarter less than each of 32."""
KEY_TILE: Final = 16
"""A block's tokens and a head's dimensions must be multiples of it."""


def supports(*, block_size: int, head_dim: int) -> bool:
    """Whether these ops can serve a model with such blocks."""
    return block_size % KEY_TILE == 0 and head_dim % KEY_TILE == 0


def load(path: Path) -> Ops:
    """The table of ops of a library that `kernels.native_build` made.

    Raises:
        OSError: it cannot be loaded, or the system refuses what its instructions need.
    """
    variant = path.name.partition("-")[0]
    if variant == "amx" and not matrix_unit.request():
        raise OSError("the system does not let this process use the processor's matrix unit (AMX)")
    ops = _NativeOps(open_library(path))
    return Ops(
        name=f"native {variant}",
        is_mixed_precision=True,
        int8_has_blocks=not ops.library.is_int8_fast(),
        pack_linear=ops.pack_linear,
        pack_embedding=ops.pack_embedding,
        rms_norm=ops.rms_norm,
        add_rms_norm=ops.add_rms_norm,
        rotate_and_write=ops.rotate_and_write,
        add=ops.add,
        scale=ops.scale,
        silu_and_mul=ops.silu_and_mul,
        gelu_and_mul=ops.gelu_and_mul,
        norm_heads=ops.norm_heads,
        plan_attention=ops.plan_attention,
        argmax=ops.argmax,
        sample=ops.sample,
        cache_shapes=cache_shapes,
        num_efficient_tokens=_WIDE_EFFICIENT_TOKENS if variant in {"amx", "avx512"} else CPU_EFFICIENT_TOKENS,
        capture=ops.capture,
    )


def cache_shapes(
    num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Keys lie transposed, so that a vector holds the scores of sixteen tokens."""
    return (num_blocks, num_kv_heads, head_dim, block_size), (num_blocks, num_kv_heads, block_size, head_dim)


class _Attention:
    def __init__(self, call: NativeCalls, batch: PagedBatch) -> None:
        self._call = call
        self._batch = batch
        self._struct = BatchStruct(
            address(batch.query_start),
            address(batch.context_lens),
            address(batch.block_tables),
            len(batch.context_lens),
            batch.block_tables.shape[1],
        )

    def __call__(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        *,
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        assert sinks is None, "see Ops.has_sinks"
        query = query.contiguous()
        output = self._call.empty(*query.shape)
        self._call(
            "paged_attention",
            self._struct,
            query.data_ptr(),
            query.shape[1],
            _cache_shape(value_cache),
            address(key_cache),
            address(value_cache),
            scale,
            window or 0,
            soft_cap or 0.0,
            output.data_ptr(),
        )
        return output


class _NativeOps:
    """Binds the library's functions to tensors."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._call = NativeCalls(library)
        self.capture = self._call.capture
        library.set_num_threads(torch.get_num_threads())

    def pack_linear(self, matrices: Sequence[Matrix], bias: Tensor | None) -> Linear:
        """As the reference; see `kernels.native_linear`."""
        return native_linear.pack_linear(self._call, self.library, matrices, bias)

    def pack_embedding(self, matrix: Matrix) -> Embedding:
        """As the reference; the head shares the embedding's memory."""
        return native_linear.pack_embedding(self._call, self.library, matrix)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """As the reference."""
        y = self._call.empty(*x.shape)
        self._call("rms_norm", address(x), weight.data_ptr(), eps, *x.shape, y.data_ptr())
        return y

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """As the reference; the sum is made in `residual`."""
        y = self._call.empty(*x.shape)
        self._call("add_rms_norm", address(x), address(residual), weight.data_ptr(), eps, *x.shape, y.data_ptr())
        return y, residual

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """As the reference; the sum is made in `residual`."""
        self._call("add_numbers", address(x), address(residual), x.numel())
        return residual

    def scale(self, x: Tensor, factor: float) -> Tensor:
        """As the reference, in place."""
        self._call("scale_numbers", address(x), factor, x.numel())
        return x

    def silu_and_mul(self, x: Tensor) -> Tensor:
        """As the reference."""
        return self._gate("silu_and_mul", x)

    def gelu_and_mul(self, x: Tensor) -> Tensor:
        """As the reference."""
        return self._gate("gelu_and_mul", x)

    def _gate(self, name: str, x: Tensor) -> Tensor:
        num_tokens, size = x.shape[0], x.shape[1] // 2
        y = self._call.empty(num_tokens, size)
        self._call(name, address(x), num_tokens, size, y.data_ptr())
        return y

    def norm_heads(
        self, qkv: Tensor, query_weight: Tensor, key_weight: Tensor, eps: float, num_kv_heads: int
    ) -> Tensor:
        """As the reference, in place."""
        num_tokens, num_all, head_dim = qkv.shape
        self._call(
            "norm_heads",
            address(qkv),
            query_weight.data_ptr(),
            key_weight.data_ptr(),
            eps,
            num_tokens,
            num_all - 2 * num_kv_heads,
            num_kv_heads,
            head_dim,
            int(len(query_weight) == head_dim),
        )
        return qkv

    def rotate_and_write(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
    ) -> Tensor:
        """As the reference, in one pass."""
        num_tokens, num_heads = qkv.shape[0], qkv.shape[1] - 2 * value_cache.shape[1]
        query = self._call.empty(num_tokens, num_heads, qkv.shape[2])
        self._call(
            "rotate_and_write",
            address(qkv),
            address(cos),
            address(sin),
            address(slots),
            num_tokens,
            num_heads,
            _cache_shape(value_cache),
            address(key_cache),
            address(value_cache),
            query.data_ptr(),
        )
        return query

    def plan_attention(self, batch: PagedBatch) -> PagedAttention:
        """As the reference. Also the moment, once a step, to follow PyTorch in its number of threads."""
        self.library.set_num_threads(torch.get_num_threads())
        return _Attention(self._call, batch)

    def argmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """As the reference."""
        tokens, is_finite = torch.empty(len(logits), dtype=torch.int64), torch.empty(len(logits), dtype=torch.bool)
        self.library.argmax(address(logits), *logits.shape, tokens.data_ptr(), is_finite.data_ptr())
        return tokens, is_finite

    def sample(self, logits: Tensor, how: SamplingTensors) -> Tensor:
        """As the reference, without sorting.

        The parts it is made of, exponents and sums in float64, are rounded by other steps than PyTorch's. So a token
        differs from the reference's where a weight or a sum lies within some last bits of the limit it is held against.
        """
        num_rows, vocab_size = logits.shape
        assert vocab_size <= _MAX_VOCABULARY, vocab_size
        tokens = torch.empty(num_rows, dtype=torch.int64)
        columns = (how.temperature, how.top_k, how.top_p, how.min_p, how.uniforms)
        self.library.sample(
            address(logits), num_rows, vocab_size, SamplingStruct(*map(address, columns)), tokens.data_ptr()
        )
        return tokens


def _cache_shape(value_cache: Tensor) -> CacheShapeStruct:
    return _cache_shape_of(value_cache.shape, value_cache.dtype)


@functools.cache
def _cache_shape_of(shape: tuple[int, ...], dtype: torch.dtype) -> CacheShapeStruct:
    _, num_kv_heads, block_size, size = shape
    return CacheShapeStruct(CACHE_FORMATS[dtype], num_kv_heads, size - row_size(0, dtype), block_size)
