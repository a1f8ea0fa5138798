"""What the ops take and return besides plain tensors."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class BlockMatrix:
    """A matrix as GGUF files store it: along a row, blocks of 32 numbers that share their scales.

    Attributes:
        format: GGUF's name of the type, "Q4_0", "Q4_1" or "Q8_0"; or "Q4_Z", which is as "Q4_1", but has in place of
            the 16-bit offset a 16-bit zero point: a number is the scale times its quant less the zero point.
        blocks: [out_features, in_features / 32, bytes of a block] u8.
    """

    format: str
    blocks: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.blocks.shape[0], self.blocks.shape[1] * 32


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix in int8 with one scale a row, to be multiplied by activations that are rounded to int8 as well.

    Attributes:
        numbers: [out_features, in_features padded with zeros to a multiple of 64] int8; each 64 columns are rotated,
            see `kernels.reference.rotate_columns`.
        scales: [out_features] float32; a rotated weight is its number times its row's scale.
        in_features: Columns without the padding.
    """

    numbers: Tensor
    scales: Tensor
    in_features: int

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.numbers.shape[0], self.in_features


@dataclass(frozen=True, slots=True)
class Int8Blocks:
    """Blocks as they are stored, to be multiplied by activations that are rounded to int8, each 32 with a scale.

    Attributes:
        blocks: See `BlockMatrix`.
    """

    blocks: BlockMatrix

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.blocks.shape


@dataclass(frozen=True, slots=True)
class IntegerMatrix:
    """Small integers with a scale and a zero point for each group of columns, whatever format they were stored in.

    A number is `(quant - zero) * scale` of its row and its column's group.

    Attributes:
        bits: Of a quant, 4 or 8.
        quants: [out_features, in_features] u8.
        scales: [out_features, num_groups], floats.
        zeros: [out_features, num_groups] int32.
        groups: [in_features] int64, each column's group.
        rounds_activations: The format means them to be multiplied by activations that are rounded to int8 by rows; not
            every device does that.
    """

    bits: int
    quants: Tensor
    scales: Tensor
    zeros: Tensor
    groups: Tensor
    rounds_activations: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.quants.shape[0], self.quants.shape[1]


@dataclass(frozen=True, slots=True)
class ScaledMatrix:
    """FP8 with a scale for each block; a number is its weight times its block's scale.

    Attributes:
        weight: [out_features, in_features] float8_e4m3fn or float8_e5m2.
        scales: [blocks of out_features, blocks of in_features] float32.
        block: (out, in) of one scale; the last blocks may be cut off.
    """

    weight: Tensor
    scales: Tensor
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self.weight.shape[0], self.weight.shape[1]


Matrix = Tensor | BlockMatrix | Int8Matrix | Int8Blocks | IntegerMatrix | ScaledMatrix
"""Weights as a checkpoint stores them or as they were rounded, [out_features, in_features]."""


class Linear(Protocol):
    """Matrices of weights in the layout their device likes best."""

    def __call__(self, x: Tensor) -> Tensor:
        """`x @ weight.T + bias`, [num_tokens, in_features] to [num_tokens, out_features]."""


class Embedding(Protocol):
    """A matrix that is read row by row."""

    def __call__(self, token_ids: Tensor) -> Tensor:
        """The rows of tokens, [num_tokens] int64 to [num_tokens, in_features]."""

    def head(self) -> Linear:
        """The same matrix as a linear layer, for models that tie the two."""


class PagedAttention(Protocol):
    """Attention of one step's tokens, planned once and run by every layer."""

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
        """Let each token attend to its sequence up to and including itself.

        Args:
            query: [num_tokens, num_heads, head_dim].
            key_cache: A layer's keys in the shape of the ops' `cache_shapes`, those of this step included.
            value_cache: As `key_cache`.
            scale: Multiplied into q.k before softmax, usually head_dim ** -0.5.
            window: Tokens that a token sees, itself included; None for all.
            soft_cap: Scores become `soft_cap * tanh(score / soft_cap)`; None leaves them.
            sinks: [num_heads], scores of a token that all see and that has no value; None without, as always where
                `Ops.has_sinks` is False.

        Returns:
            [num_tokens, num_heads, head_dim] in query's dtype.
        """


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """Who attends to what in one step: each sequence computes the last few tokens of its context.

    Attributes:
        query_start: [num_seqs + 1] int32; row of each sequence's first token in the packed tokens, and their number.
        context_lens: [num_seqs] int32; tokens of each sequence in the cache, those of this step included.
        block_tables: [num_seqs, max_blocks] int32; entries past the context are never read.
        block_size: Tokens of a block.
        is_decode: No sequence computes more than one token.
    """

    query_start: Tensor
    context_lens: Tensor
    block_tables: Tensor
    block_size: int
    is_decode: bool = False


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """How to choose one token for each of `num_rows` rows of logits.

    Attributes:
        temperature: [num_rows] float32, above 0.
        top_k: [num_rows] int64; 0 means all.
        top_p: [num_rows] float64 in (0, 1].
        min_p: [num_rows] float32 in [0, 1].
        uniforms: [num_rows] float64 in [0, 1 - 2**-52], so that a share of a sum is always less than the sum.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniforms: Tensor
