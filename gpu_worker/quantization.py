"""Weights in int8: what `--quantization` makes of a checkpoint's matrices while they are loaded."""

from enum import StrEnum

from torch import Tensor

from gpu_worker.weights import Weights
from kernels.arguments import Matrix
from kernels.quantize import BLOCK_COLUMNS, MAX_COLUMNS, to_blocks, to_rows
from shared.errors import ConfigurationError


class Quantization(StrEnum):
    """How matrices are rounded: all linear layers', the embedding's and the head's.

    Attributes:
        INT8: To int8 with a scale a row, after a rotation of their columns; activations likewise, row by row, before
            they are multiplied. Sums are exact, all else is fp32.
        INT8_WEIGHT_ONLY: To int8 in GGUF's blocks of 32 with a scale each (Q8_0), 8.5 bits a weight; activations and
            sums stay fp32.
    """

    INT8 = "int8"
    INT8_WEIGHT_ONLY = "int8-weight-only"


class QuantizedWeights:
    """Another reader's weights, the matrices rounded one by one as they are read."""

    def __init__(self, weights: Weights, quantization: Quantization) -> None:
        self._weights = weights
        self._quantization = quantization

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
        if self._quantization is Quantization.INT8:
            return self._to_rows(matrix, name)
        if matrix.shape[1] % BLOCK_COLUMNS:
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
