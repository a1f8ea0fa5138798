"""The ops on a CPU by our own C++: fp32 activations and sums, weights in the format they are stored in.

Every op's result for a token depends on that token alone, bit for bit: not on its batch, its chunk or the threads.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import torch
from torch import Tensor

from kernels import matrix_unit
from kernels.arguments import (
    BlockMatrix,
    Int8Blocks,
    Int8Matrix,
    Linear,
    Matrix,
    PagedAttention,
    PagedBatch,
    SamplingTensors,
)
from kernels.cache_rows import row_size
from kernels.native_calls import NativeCalls
from kernels.native_library import (
    BLOCK_FORMATS,
    CACHE_FORMATS,
    FLOAT_FORMATS,
    BatchStruct,
    CacheShapeStruct,
    Int8MatrixStruct,
    MatrixStruct,
    SamplingStruct,
    address,
    open_library,
)
from kernels.ops import Ops
from kernels.reference_linear import stack_blocks, stack_int8

_PANEL_ROWS: Final = 16
_MAX_VOCABULARY: Final = 1 << 20
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
        capture=ops.capture,
    )


def cache_shapes(
    num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Keys lie transposed, so that a vector holds the scores of sixteen tokens."""
    return (num_blocks, num_kv_heads, head_dim, block_size), (num_blocks, num_kv_heads, block_size, head_dim)


class _Packed(Protocol):
    """One matrix in panels."""

    num_rows: int
    num_columns: int
    struct: ctypes.Structure
    multiply: str
    """Function that takes (struct, x, num_tokens, y, stride of y)."""
    gather: str
    """Function that takes (struct, rows, num_tokens, y)."""


class _PackedFloats:
    """A matrix that keeps its numbers, and is multiplied by fp32 activations or, if it is blocks, by rounded ones."""

    def __init__(self, library: ctypes.CDLL, matrix: Tensor | BlockMatrix, bias: Tensor | None, multiply: str) -> None:
        numbers = matrix.blocks if isinstance(matrix, BlockMatrix) else matrix
        number_format = BLOCK_FORMATS[matrix.format] if isinstance(matrix, BlockMatrix) else FLOAT_FORMATS[matrix.dtype]
        self.multiply = multiply
        self.gather = "gather_rows"
        self.num_rows, self.num_columns = matrix.shape
        self._panels = _panels(self.num_rows, library.panel_bytes(number_format, self.num_columns))
        self._bias = _padded(bias, self.num_rows)
        library.pack_matrix(
            number_format, address(numbers.contiguous()), self.num_rows, self.num_columns, address(self._panels)
        )
        self.struct: ctypes.Structure = MatrixStruct(
            address(self._panels),
            None if self._bias is None else address(self._bias),
            self.num_rows,
            self.num_columns,
            number_format,
        )


class _PackedInt8:
    """A matrix that is multiplied by activations in int8."""

    def __init__(self, library: ctypes.CDLL, matrix: Int8Matrix, bias: Tensor | None) -> None:
        self.multiply = "linear_int8"
        self.gather = "gather_rows_int8"
        self.num_rows, self.num_columns = matrix.shape
        self._panels = _panels(self.num_rows, library.int8_panel_bytes(self.num_columns))
        self._bias = _padded(bias, self.num_rows)
        library.pack_int8(
            address(matrix.numbers), address(matrix.scales), self.num_rows, self.num_columns, address(self._panels)
        )
        self.struct: ctypes.Structure = Int8MatrixStruct(
            address(self._panels),
            None if self._bias is None else address(self._bias),
            self.num_rows,
            self.num_columns,
        )


def _panels(num_rows: int, panel_bytes: int) -> Tensor:
    return torch.empty(_num_panels(num_rows) * panel_bytes, dtype=torch.uint8)


def _padded(bias: Tensor | None, num_rows: int) -> Tensor | None:
    if bias is None:
        return None
    padded = torch.zeros(_num_panels(num_rows) * _PANEL_ROWS)
    padded[:num_rows] = bias
    return padded


def _num_panels(num_rows: int) -> int:
    return -(-num_rows // _PANEL_ROWS)


class _Linear:
    """Packed matrices that read the same input, their outputs side by side."""

    def __init__(self, call: NativeCalls, parts: Sequence[_Packed]) -> None:
        self._call = call
        self._out_features = sum(part.num_rows for part in parts)
        self._parts = []
        first = 0
        for part in parts:
            self._parts.append((part, part.multiply, part.struct, 4 * first))
            first += part.num_rows

    def __call__(self, x: Tensor) -> Tensor:
        call, num_tokens, out_features = self._call, x.shape[0], self._out_features
        y = call.empty(num_tokens, out_features)
        source, target = address(x), y.data_ptr()
        for _, multiply, struct, offset in self._parts:
            call(multiply, struct, source, num_tokens, target + offset, out_features)
        return y


class _Embedding:
    def __init__(self, call: NativeCalls, packed: _Packed) -> None:
        self._call = call
        self._packed = packed

    def __call__(self, token_ids: Tensor) -> Tensor:
        rows = self._call.empty(len(token_ids), self._packed.num_columns)
        self._call(self._packed.gather, self._packed.struct, address(token_ids), len(token_ids), rows.data_ptr())
        return rows

    def head(self) -> Linear:
        return _Linear(self._call, [self._packed])


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
        """As the reference. Matrices of one format become one; others stay as they are, side by side."""
        runs: list[list[Matrix]] = []
        for matrix in matrices:
            if runs and _format(runs[-1][0]) == _format(matrix):
                runs[-1].append(matrix)
            else:
                runs.append([matrix])
        parts, first = [], 0
        for run in runs:
            rows = sum(matrix.shape[0] for matrix in run)
            own_bias = None if bias is None else bias[first : first + rows]
            parts.append(_pack(self.library, _stack(run), own_bias))
            first += rows
        return _Linear(self._call, parts)

    def pack_embedding(self, matrix: Matrix) -> _Embedding:
        """As the reference; the head shares the embedding's memory."""
        return _Embedding(self._call, _pack(self.library, matrix, None))

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


def _pack(library: ctypes.CDLL, matrix: Matrix, bias: Tensor | None) -> _Packed:
    if isinstance(matrix, Int8Matrix):
        return _PackedInt8(library, matrix, bias)
    if isinstance(matrix, Int8Blocks):
        return _PackedFloats(library, matrix.blocks, bias, "linear_int8_blocks")
    assert isinstance(matrix, Tensor | BlockMatrix), "see Ops.keeps"
    return _PackedFloats(library, matrix, bias, "linear")


def _format(matrix: Matrix) -> str | torch.dtype:
    if isinstance(matrix, Int8Matrix):
        return "int8"
    if isinstance(matrix, Int8Blocks):
        return f"int8 times {matrix.blocks.format}"
    assert isinstance(matrix, Tensor | BlockMatrix), "see Ops.keeps"
    return matrix.format if isinstance(matrix, BlockMatrix) else matrix.dtype


def _stack(matrices: Sequence[Matrix]) -> Matrix:
    """Matrices of one format as one, row under row."""
    if isinstance(matrices[0], BlockMatrix):
        return stack_blocks(matrices)
    if isinstance(matrices[0], Int8Blocks):
        return Int8Blocks(stack_blocks(matrices))
    if isinstance(matrices[0], Int8Matrix):
        return stack_int8([matrix for matrix in matrices if isinstance(matrix, Int8Matrix)])
    return torch.cat([matrix for matrix in matrices if isinstance(matrix, Tensor)])
