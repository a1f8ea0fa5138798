"""Linear layers and embeddings by our own C++: matrices packed into panels, in the format they are stored in."""

import ctypes
from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from kernels.arguments import (
    BlockMatrix,
    Embedding,
    Int8Blocks,
    Int8Matrix,
    Linear,
    Matrix,
)
from kernels.native_calls import NativeCalls
from kernels.native_library import (
    BLOCK_FORMATS,
    FLOAT_FORMATS,
    Int8MatrixStruct,
    MatrixStruct,
    address,
)
from kernels.reference_linear import stack_blocks, stack_int8

_PANEL_ROWS: Final = 16


def pack_linear(call: NativeCalls, library: ctypes.CDLL, matrices: Sequence[Matrix], bias: Tensor | None) -> Linear:
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
        parts.append(_pack(library, _stack(run), own_bias))
        first += rows
    return _Linear(call, parts)


def pack_embedding(call: NativeCalls, library: ctypes.CDLL, matrix: Matrix) -> Embedding:
    """As the reference; the head shares the embedding's memory."""
    return _Embedding(call, _pack(library, matrix, None))


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
