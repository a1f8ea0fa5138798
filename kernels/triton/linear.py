"""Linear layers of a model on a GPU: which kernel multiplies which of a checkpoint's matrices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import reference_linear
from kernels.arguments import IntegerMatrix, Linear, Matrix, ScaledMatrix
from kernels.integer_matrices import pack
from kernels.reference_linear import scales_by_row
from kernels.triton.packed_linear import PackedLinear
from kernels.triton.scaled_linear import ScaledLinear

_WORD = 8
"""Nibbles of an int32."""
_LEAST_DEPTH = 32
"""Products of 8-bit numbers that matrix units sum at once."""
_BYTE_ZERO = 128


def keeps(matrix: Matrix) -> bool:
    """Whether there is a kernel for a quantized matrix as it is; see `Ops.keeps`."""
    if isinstance(matrix, ScaledMatrix):
        return matrix.weight.dtype == torch.float8_e4m3fn and _is_deep(matrix.block[1])
    if not isinstance(matrix, IntegerMatrix):
        return False
    (out_features, in_features), num_groups = matrix.shape, matrix.scales.shape[1]
    if matrix.bits == 4:  # noqa: PLR2004
        is_even = out_features % _WORD == 0 and in_features % (num_groups * 16) == 0
        is_even = is_even and bool((matrix.groups.bincount() == in_features // num_groups).all())
        return is_even and int(matrix.zeros.max()) - int(matrix.zeros.min()) < 16  # noqa: PLR2004
    is_by_row = num_groups == 1 and bool((matrix.zeros == _BYTE_ZERO).all())
    return matrix.rounds_activations and is_by_row and _is_deep(in_features)


def pack_linear(matrices: Sequence[Matrix], bias: Tensor | None) -> Linear:
    """As the reference. Matrices of one kind become one, others stand side by side."""
    runs: list[list[Matrix]] = []
    for matrix in matrices:
        if runs and _go_together(runs[-1][0], matrix):
            runs[-1].append(matrix)
        else:
            runs.append([matrix])
    parts: list[Linear] = []
    first = 0
    for run in runs:
        num_rows = sum(matrix.shape[0] for matrix in run)
        parts.append(_pack(run, None if bias is None else bias[first : first + num_rows]))
        first += num_rows
    return parts[0] if len(parts) == 1 else _SideBySide(parts)


@dataclass(frozen=True, slots=True)
class _SideBySide:
    parts: Sequence[Linear]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)


def _go_together(one: Matrix, other: Matrix) -> bool:
    if isinstance(one, IntegerMatrix) and isinstance(other, IntegerMatrix):
        is_alike = one.bits == other.bits and torch.equal(one.groups, other.groups)
        return is_alike and _zero_offset(one) == _zero_offset(other)
    if isinstance(one, ScaledMatrix) and isinstance(other, ScaledMatrix):
        return one.block[1] == other.block[1]
    return isinstance(one, Tensor) and isinstance(other, Tensor)


def _pack(run: Sequence[Matrix], bias: Tensor | None) -> Linear:
    integers = [matrix for matrix in run if isinstance(matrix, IntegerMatrix)]
    if integers:
        return _pack_integers(integers, bias)
    scaled = [matrix for matrix in run if isinstance(matrix, ScaledMatrix)]
    return _pack_scaled(scaled, bias) if scaled else reference_linear.pack_linear(run, bias)


def _pack_integers(run: Sequence[IntegerMatrix], bias: Tensor | None) -> Linear:
    quants, scales, zeros = (
        torch.cat([getattr(matrix, name) for matrix in run]) for name in ("quants", "scales", "zeros")
    )
    in_features = quants.shape[1]
    if run[0].bits == 8:  # noqa: PLR2004
        weight = (quants.to(torch.int16) - _BYTE_ZERO).to(torch.int8)
        return ScaledLinear(weight, scales.float().contiguous(), (1, in_features), bias)
    offset, groups = _zero_offset(run[0]), run[0].groups
    is_in_order = bool((groups[1:] >= groups[:-1]).all())
    order = None if is_in_order else torch.argsort(groups, stable=True)
    return PackedLinear(
        words=pack(quants if order is None else quants[:, order], 4).T.contiguous(),
        zeros=pack((zeros - offset).T, 4),
        scales=scales.T.contiguous(),
        input_order=order,
        zero_offset=offset,
        bias=bias,
    )


def _pack_scaled(run: Sequence[ScaledMatrix], bias: Tensor | None) -> Linear:
    is_whole = all(matrix.shape[0] % run[0].block[0] == 0 and matrix.block == run[0].block for matrix in run[:-1])
    if len(run) > 1 and not (is_whole and run[-1].block == run[0].block):
        run = [scales_by_row(matrix) for matrix in run]
    weight, scales = (torch.cat([getattr(matrix, name) for matrix in run]) for name in ("weight", "scales"))
    return ScaledLinear(weight.contiguous(), scales, run[0].block, bias)


def _zero_offset(matrix: IntegerMatrix) -> int:
    """1 if a zero point of 16 needs it, as GPTQ's first version can have; then none is 0."""
    return int(matrix.bits == 4 and int(matrix.zeros.max()) == 16)  # noqa: PLR2004


def _is_deep(size: int) -> bool:
    """Whether steps of enough columns divide it."""
    return size % _LEAST_DEPTH == 0
