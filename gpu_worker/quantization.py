"""Weights in int8: what `--quantization` makes of a checkpoint's matrices while they are loaded."""

from enum import StrEnum

from torch import Tensor

from gpu_worker.weights import Weights
from kernels.arguments import Matrix
from kernels.quantize import BLOCK_COLUMNS, MAX_COLUMNS, to_blocks, to_int8_blocks, to_rows
from shared.errors import ConfigurationError


class Quantization(StrEnum):
    """How matrices are rounded: all linear layers', the embedding's and the head's.

    Attributes:
        INT8: Activations to int8 before they are multiplied, and sums of products are exact. By blocks: 32 activations
            share a scale, matrices of blocks stay what they are, others become Q8_0. By rows, where the processor
            multiplies those faster and where a row cannot be cut into blocks: weights to int8 with a scale a row, after
            a rotation of their columns, and activations likewise.
        INT8_WEIGHT_ONLY: To int8 in GGUF's blocks of 32 with a scale each (Q8_0), 8.5 bits a weight; activations and
            sums stay fp32.
    """

    INT8 = "int8"
    INT8_WEIGHT_ONLY = "int8-weight-only"


class QuantizedWeights:
    """Another reader's weights, the matrices rounded one by one as they are read."""

    def __init__(self, weights: Weights, quantization: Quantization, *, int8_has_blocks: bool) -> None:
        """int8_has_blocks: As `Ops` says."""
        self._weights = weights
        self._quantization = quantization
        self._int8_has_blocks = int8_has_blocks

    def get(self, name: str) -> Tensor:
        """See `Weights`; not rounded."""
        return self._weights.get(name)

    def matrix(self, name: str) -> Matrix:
        """See `Weights`.

        Raises:
            CheckpointError: as `Weights`.
            ConfigurationError: it cannot be cut into blocks.
        """
        matrix = self._weights.matrix(name)
        has_blocks = matrix.shape[1] % BLOCK_COLUMNS == 0
        if self._quantization is Quantization.INT8:
            return to_int8_blocks(matrix) if self._int8_has_blocks and has_blocks else self._to_rows(matrix, name)
        if not has_blocks:
            raise ConfigurationError(
                f"--quantization {self._quantization} cuts rows into blocks of {BLOCK_COLUMNS}, but {name} has "
                f"{matrix.shape[1]} columns; use {Quantization.INT8}, or leave it out"
            )
        return to_blocks(matrix)

    def _to_rows(self, matrix: Matrix, name: str) -> Matrix:
        if matrix.shape[1] > MAX_COLUMNS:
            raise ConfigurationError(
                f"--quantization {self._quantization} sums up to {MAX_COLUMNS} products in 32 bits, but {name} has "
                f"{matrix.shape[1]} columns; use {Quantization.INT8_WEIGHT_ONLY}, or leave it out"
            )
        return to_rows(matrix)

    def rotary_divisors(self) -> Tensor | None:
        """See `Weights`."""
        return self._weights.rotary_divisors()
