"""Linear layers and embeddings of every kind of matrix, in plain PyTorch: what kernels are tested against."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from kernels.arguments import (
    BlockMatrix,
    Embedding,
    Int8Blocks,
    Int8Matrix,
    IntegerMatrix,
    Linear,
    Matrix,
    ScaledMatrix,
)


def dequantize(matrix: Matrix) -> Tensor:
    """The numbers of a matrix, [out_features, in_features]; fp32 unless they are a tensor.

    Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c
    """
    if isinstance(matrix, Tensor):
        return matrix
    if isinstance(matrix, Int8Matrix):
        return rotate_columns(matrix.numbers * matrix.scales[:, None])[:, : matrix.in_features]
    if isinstance(matrix, Int8Blocks):
        return dequantize(matrix.blocks)
    if isinstance(matrix, IntegerMatrix):
        scales, zeros = matrix.scales.float()[:, matrix.groups], matrix.zeros[:, matrix.groups]
        return (matrix.quants.int() - zeros).float() * scales
    if isinstance(matrix, ScaledMatrix):
        return matrix.weight.float() * _spread_scales(matrix)
    quants, scale, offset = _parts(matrix)
    return (quants * scale + offset).reshape(matrix.shape)


def _spread_scales(matrix: ScaledMatrix) -> Tensor:
    """One for each weight, or one to all of a row or a column."""
    (rows, columns), scales = matrix.block, matrix.scales
    spread = scales if len(scales) == 1 else scales.repeat_interleave(rows, 0)[: matrix.shape[0]]
    return spread if scales.shape[1] == 1 else spread.repeat_interleave(columns, 1)[:, : matrix.shape[1]]


def _parts(matrix: BlockMatrix) -> tuple[Tensor, Tensor, Tensor]:
    """Quants [out_features, num_blocks, 32], scales and offsets [out_features, num_blocks, 1]."""
    blocks = matrix.blocks
    scale = blocks[..., :2].contiguous().view(torch.float16).float()
    match matrix.format:
        case "Q8_0":
            return blocks[..., 2:].contiguous().view(torch.int8), scale, torch.zeros_like(scale)
        case "Q4_0":
            return _nibbles(blocks[..., 2:]), scale, -8.0 * scale
        case "Q4_1":
            return _nibbles(blocks[..., 4:]), scale, blocks[..., 2:4].contiguous().view(torch.float16).float()
        case "Q4_Z":
            return _nibbles(blocks[..., 4:]), scale, -blocks[..., 2:4].contiguous().view(torch.float16).float() * scale
        case other:
            raise ValueError(f"blocks of format {other!r} are not known")


def _nibbles(packed: Tensor) -> Tensor:
    """The low halves of the bytes, then the high ones."""
    return torch.cat((packed & 15, packed >> 4), dim=-1)


ROTATED_COLUMNS: Final = 64


def rotate_columns(numbers: Tensor) -> Tensor:
    """Each 64 columns times the Hadamard matrix of that size; doing it twice multiplies by 64.

    An activation that is many times larger than its neighbours is spread over them, so that one scale fits all.

    Args:
        numbers: [rows, columns], columns a multiple of 64.

    Source: Ashkboos et al. 2024 (QuaRot), here block by block.
    """
    rows, columns = numbers.shape
    stride = 1
    while stride < ROTATED_COLUMNS:
        pairs = numbers.view(rows, -1, 2, stride)
        first, second = pairs[:, :, 0], pairs[:, :, 1]
        numbers = torch.stack((first + second, first - second), dim=2).view(rows, columns)
        stride *= 2
    return numbers


def pad_columns(numbers: Tensor) -> Tensor:
    """Zeros behind the columns, up to a multiple of 64."""
    return functional.pad(numbers, (0, -numbers.shape[1] % ROTATED_COLUMNS))


@dataclass(frozen=True, slots=True)
class _Int8Linear:
    matrix: Int8Matrix
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Rounds each row by itself to 255 steps, and sums exactly: every device gives the same bits."""
        rotated = rotate_columns(pad_columns(x))
        largest = rotated.abs().amax(1, keepdim=True)
        # Not `127 / largest`, which PyTorch rounds twice.
        inverse = torch.where(largest > _LEAST, torch.full_like(largest, 127.0) / largest, 0.0)
        steps = (rotated * inverse).round()
        sums = steps.double() @ self.matrix.numbers.double().T
        y = sums.float() * (largest / 127 * self.matrix.scales)
        return y if self.bias is None else y + self.bias


_LEAST: Final = 1e-36
"""Rows, or blocks, that have no larger number are taken as zeros."""


@dataclass(frozen=True, slots=True)
class _Int8BlocksLinear:
    matrix: BlockMatrix
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Rounds each 32 numbers to 255 steps. Sums of a block are exact; one fused multiply-add each adds them up."""
        quants, scales, offsets = _parts(self.matrix)
        blocks = x.reshape(len(x), quants.shape[1], 32)
        largest = blocks.abs().amax(2, keepdim=True)
        inverse = torch.where(largest > _LEAST, torch.full_like(largest, 127.0) / largest, 0.0)
        steps = (blocks * inverse).round()
        # A NaN or an infinity leaves no step of its block a number.
        own_scales = largest / 127 + 0.0 * steps.sum(2, keepdim=True)
        totals = own_scales * steps.sum(2, keepdim=True)
        y = torch.zeros(len(x), len(quants)) if self.bias is None else self.bias.expand(len(x), -1)
        for block in range(quants.shape[1]):
            y = _fused(totals[:, block], offsets[:, block].T, y)
            sums = (steps[:, block].double() @ quants[:, block].double().T).float()
            y = _fused(own_scales[:, block] * scales[:, block].T, sums, y)
        return y


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`a * b + c`, rounded once: float64 holds the product."""
    return (a.double() * b.double() + c.double()).float()


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


def pack_linear(matrices: Sequence[Matrix], bias: Tensor | None) -> Linear:
    """Prepare matrices that read the same input, as one.

    Args:
        matrices: Each [its own out_features, in_features].
        bias: [the sum of out_features].
    """
    int8 = [matrix for matrix in matrices if isinstance(matrix, Int8Matrix)]
    if int8:
        assert len(int8) == len(matrices), "int8 activations are for all of them or none"
        return _Int8Linear(stack_int8(int8), bias)
    if isinstance(matrices[0], Int8Blocks):
        return _Int8BlocksLinear(stack_blocks(matrices), bias)
    return _Linear(torch.cat([dequantize(matrix) for matrix in matrices]), bias)


def stack_blocks(matrices: Sequence[Matrix]) -> BlockMatrix:
    """Blocks of one format as one matrix, row under row."""
    parts = [matrix.blocks if isinstance(matrix, Int8Blocks) else matrix for matrix in matrices]
    blocks = [part for part in parts if isinstance(part, BlockMatrix)]
    assert len(blocks) == len(matrices), "blocks stand beside blocks"
    assert len({part.format for part in blocks}) == 1, "of one format"
    return BlockMatrix(blocks[0].format, torch.cat([part.blocks for part in blocks]))


def take_rows(matrix: Matrix, rows: Tensor) -> Matrix:
    """Some rows of a matrix, or of a vector, in this order; `rows` are indices [num_rows]."""
    if isinstance(matrix, BlockMatrix):
        return BlockMatrix(matrix.format, matrix.blocks[rows])
    if isinstance(matrix, Int8Blocks):
        return Int8Blocks(BlockMatrix(matrix.blocks.format, matrix.blocks.blocks[rows]))
    if isinstance(matrix, Int8Matrix):
        return Int8Matrix(matrix.numbers[rows], matrix.scales[rows], matrix.in_features)
    if isinstance(matrix, IntegerMatrix):
        return replace(matrix, quants=matrix.quants[rows], scales=matrix.scales[rows], zeros=matrix.zeros[rows])
    if isinstance(matrix, ScaledMatrix):
        by_row = scales_by_row(matrix)
        return replace(by_row, weight=matrix.weight[rows], scales=by_row.scales[rows])
    return matrix[rows]


def to_device(matrix: Matrix, device: torch.device) -> Matrix:
    """The same matrix there."""
    if isinstance(matrix, Tensor):
        return matrix.to(device)
    if isinstance(matrix, Int8Blocks):
        return Int8Blocks(replace(matrix.blocks, blocks=matrix.blocks.blocks.to(device)))
    parts = {item.name: getattr(matrix, item.name) for item in fields(matrix)}
    moved: dict[str, Any] = {name: part.to(device) for name, part in parts.items() if isinstance(part, Tensor)}
    return replace(matrix, **moved)


def scales_by_row(matrix: ScaledMatrix) -> ScaledMatrix:
    """The same numbers, each row with scales of its own."""
    scales = matrix.scales.repeat_interleave(matrix.block[0], 0)[: matrix.shape[0]]
    return ScaledMatrix(matrix.weight, scales.contiguous(), (1, matrix.block[1]))


def stack_int8(matrices: Sequence[Int8Matrix]) -> Int8Matrix:
    """Matrices of the same columns as one, row under row."""
    numbers = torch.cat([matrix.numbers for matrix in matrices])
    return Int8Matrix(numbers, torch.cat([matrix.scales for matrix in matrices]), matrices[0].in_features)


@dataclass(frozen=True, slots=True)
class _Embedding:
    weight: Tensor
    matrix: Matrix

    def __call__(self, token_ids: Tensor) -> Tensor:
        return self.weight.index_select(0, token_ids)

    def head(self) -> Linear:
        return pack_linear([self.matrix], None)


def pack_embedding(matrix: Matrix) -> Embedding:
    """Prepare a matrix [vocab_size, hidden_size] for reading its rows."""
    return _Embedding(dequantize(matrix), matrix)
