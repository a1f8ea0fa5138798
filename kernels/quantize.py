"""Rounds matrices to int8 as the native kernels multiply them."""

from typing import Final

import torch

from kernels.arguments import BlockMatrix, Int8Blocks, Int8Matrix, Matrix
from kernels.reference_linear import ROTATED_COLUMNS, dequantize, pad_columns, rotate_columns

BLOCK_COLUMNS: Final = 32
"""Weights of a block of Q8_0."""
MAX_COLUMNS: Final = 65_536
"""Whose products, of 255 times 127 at most, are summed in 32 bits."""


def to_blocks(matrix: Matrix) -> BlockMatrix:
    """Round to Q8_0: to the nearest of 255 steps of a 16-bit scale, which 32 weights of a row share.

    Args:
        matrix: [out_features, in_features], in_features a multiple of 32. Blocks of Q8_0 stay what they are.
    """
    if isinstance(matrix, BlockMatrix) and matrix.format == "Q8_0":
        return matrix
    numbers = dequantize(matrix).float().view(matrix.shape[0], -1, BLOCK_COLUMNS)
    scales = (numbers.abs().amax(-1, keepdim=True) / 127).half()
    steps = (numbers / scales.float()).nan_to_num_(0.0).round_().clamp_(-127, 127).to(torch.int8)
    return BlockMatrix("Q8_0", torch.cat((scales.view(torch.uint8), steps.view(torch.uint8)), dim=-1))


def to_int8_blocks(matrix: Matrix) -> Int8Blocks:
    """Blocks for activations in int8: those of a checkpoint as they are, other numbers rounded to Q8_0.

    Args:
        matrix: [out_features, in_features], in_features a multiple of 32.
    """
    return Int8Blocks(matrix if isinstance(matrix, BlockMatrix) else to_blocks(matrix))


def to_rows(matrix: Matrix) -> Int8Matrix:
    """Rotate the columns and round to int8 with one scale a row, for activations in int8.

    Args:
        matrix: [out_features, in_features].
    """
    rotated = rotate_columns(pad_columns(dequantize(matrix).float())) / ROTATED_COLUMNS
    scales = rotated.abs().amax(1) / 127
    steps = (rotated / scales[:, None]).nan_to_num_(0.0).round_().to(torch.int8)
    return Int8Matrix(steps, scales, matrix.shape[1])
