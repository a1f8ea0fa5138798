"""Every op in plain PyTorch, written to be read: what the devices' kernels are tested against.

It runs on any device and holds no trick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from kernels.arguments import (
    BlockMatrix,
    Embedding,
    Int8Blocks,
    Int8Matrix,
    Linear,
    Matrix,
    PagedAttention,
    PagedBatch,
    SamplingTensors,
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
    quants, scale, offset = _parts(matrix)
    return (quants * scale + offset).reshape(matrix.shape)


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
    return matrix[rows]


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


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each row of x [num_tokens, hidden_size] by its root mean square, computed in fp32, and scale by `weight`.

    Source: Zhang and Sennrich 2019.
    """
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum `x + residual` normed, and the sum itself. May overwrite `residual`."""
    total = x + residual
    return rms_norm(total, weight, eps), total


def norm_heads(qkv: Tensor, query_weight: Tensor, key_weight: Tensor, eps: float, num_kv_heads: int) -> Tensor:
    """Norm queries and keys. May overwrite `qkv`.

    Args:
        qkv: [num_tokens, num_heads + 2 * num_kv_heads, head_dim]: queries, keys, values.
        query_weight: [head_dim] to norm each head by itself, [num_heads * head_dim] to norm all of a token at once.
        key_weight: As `query_weight`, for num_kv_heads.
        eps: See `rms_norm`.
        num_kv_heads: Heads of the keys.

    Source: Henry et al. 2020, by root mean squares.
    """
    query, key, value = qkv[:, : -2 * num_kv_heads], qkv[:, -2 * num_kv_heads : -num_kv_heads], qkv[:, -num_kv_heads:]
    normed = [
        rms_norm(part.reshape(-1, len(weight)), weight, eps).view(part.shape)
        for part, weight in ((query, query_weight), (key, key_weight))
    ]
    return torch.cat((*normed, value), dim=1)


def add(x: Tensor, residual: Tensor) -> Tensor:
    """The sum. May overwrite `residual`."""
    return x + residual


def scale(x: Tensor, factor: float) -> Tensor:
    """The product. May overwrite `x`."""
    return x * factor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of the pairs (i, i + head_dim / 2).

    Args:
        x: [num_tokens, num_heads, head_dim].
        cos: [num_tokens, head_dim / 2], x's dtype.
        sin: As `cos`.

    Source: Su et al. 2021, in the layout of GPT-NeoX.
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def silu_and_mul(x: Tensor) -> Tensor:
    """`silu(gate) * up` of x [num_tokens, 2 * intermediate_size], gate first.

    Source: Shazeer 2020 (SwiGLU).
    """
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


def gelu_and_mul(x: Tensor) -> Tensor:
    """As `silu_and_mul`, by GELU as tanh approximates it."""
    gate, up = x.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * up


def rotate_and_write(
    qkv: Tensor, cos: Tensor, sin: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> Tensor:
    """Rotate queries and keys, put keys and values into the cache, and return the queries.

    Args:
        qkv: [num_tokens, num_heads + 2 * num_kv_heads, head_dim]: queries, keys, values.
        cos: See `rotate`.
        sin: As `cos`.
        key_cache: See `write_kv`.
        value_cache: As `key_cache`.
        slots: See `write_kv`.

    Returns:
        [num_tokens, num_heads, head_dim].
    """
    num_kv_heads = key_cache.shape[2]
    rotated = rotate(qkv[:, :-num_kv_heads], cos, sin)
    write_kv(rotated[:, -num_kv_heads:], qkv[:, -num_kv_heads:], key_cache, value_cache, slots)
    return rotated[:, :-num_kv_heads]


def cache_shapes(
    num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a layer's keys and values as the ops of this device want them; blocks come first."""
    shape = (num_blocks, block_size, num_kv_heads, head_dim)
    return shape, shape


def write_kv(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor) -> None:
    """Put this step's keys and values into the cache.

    Args:
        key: [num_tokens, num_kv_heads, head_dim].
        value: As `key`.
        key_cache: [num_blocks, block_size, num_kv_heads, head_dim].
        value_cache: As `key_cache`.
        slots: [num_tokens] int64, `block * block_size + offset` of each token.
    """
    key_cache.flatten(0, 1)[slots] = key.to(key_cache.dtype)
    value_cache.flatten(0, 1)[slots] = value.to(value_cache.dtype)


@dataclass(frozen=True, slots=True)
class _PagedAttention:
    batch: PagedBatch

    def __call__(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        *,
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
    ) -> Tensor:
        output = torch.empty_like(query)
        starts = self.batch.query_start.tolist()
        for sequence, context_len in enumerate(self.batch.context_lens.tolist()):
            start, stop = starts[sequence], starts[sequence + 1]
            position = torch.arange(context_len, device=query.device)
            block = self.batch.block_tables[sequence, position // self.batch.block_size]
            offset = position % self.batch.block_size
            keys, values = key_cache[block, offset].float(), value_cache[block, offset].float()
            group = query.shape[1] // keys.shape[1]
            keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
            scores = torch.einsum("thd,chd->htc", query[start:stop].float(), keys) * scale
            if soft_cap is not None:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            own = torch.arange(context_len - (stop - start), context_len, device=query.device)[:, None]
            unseen = position > own
            if window is not None:
                unseen = unseen | (position <= own - window)
            weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
            output[start:stop] = torch.einsum("htc,chd->thd", weights, values).to(query.dtype)
        return output


def plan_attention(batch: PagedBatch) -> PagedAttention:
    """Prepare a step's attention.

    Source: block tables, Kwon et al. 2023.
    """
    return _PagedAttention(batch)


def argmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token of each row, the first among equals, and whether there is one.

    Args:
        logits: [num_rows, vocab_size] float32.

    Returns:
        Tokens, [num_rows] int64, of no meaning where the other one, [num_rows] bool, is False: the row holds NaN or
        infinity, or nothing but negative infinity.
    """
    tokens = logits.argmax(-1)
    return tokens, logits.gather(1, tokens[:, None]).squeeze(1).isfinite()


def sample(logits: Tensor, how: SamplingTensors) -> Tensor:
    """Choose a token for each row: a function of the row's logits, parameters and random number alone.

    Tokens weigh exp((logit - max) / temperature). min_p, then top_k, then top_p each drop tokens below a weight, so
    tokens of equal weight stay or go together. What is left is sampled by the inverse of its cumulative distribution
    in the order of token ids, in float64.

    Args:
        logits: [num_rows, vocab_size] float32, the largest of each row finite.
        how: One item for each row.

    Returns:
        [num_rows] int64.
    """
    tokens = []
    for row, temperature, top_k, top_p, min_p, uniform in zip(
        logits, how.temperature, how.top_k, how.top_p, how.min_p, how.uniforms, strict=True
    ):
        weights = torch.exp((row - row.max()) / temperature)
        weights = torch.where(weights >= min_p, weights, 0.0)
        if top_k > 0:
            kth_largest = weights.sort(descending=True).values[min(int(top_k), len(weights)) - 1]
            weights = torch.where(weights >= kth_largest, weights, 0.0)
        if top_p < 1:
            descending = weights.sort(descending=True).values
            mass = descending.double().cumsum(0)
            last_kept = descending[int((mass < top_p * mass[-1]).sum())]
            weights = torch.where(weights >= last_kept, weights, 0.0)
        cumulative = weights.double().cumsum(0)
        tokens.append(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
    return torch.stack(tokens)
