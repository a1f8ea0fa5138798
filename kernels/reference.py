"""Every op in plain PyTorch, written to be read: what the devices' kernels are tested against.

It runs on any device and holds no trick. What multiplies matrices is in `kernels.reference_linear`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kernels.arguments import PagedAttention, PagedBatch, SamplingTensors


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


def copy_blocks(source: Tensor, destination: Tensor, pairs: Tensor) -> None:
    """Copy each pair's first block of one tensor to its second block of another, or of the same.

    Args:
        source: [num_blocks, ...].
        destination: As `source`, of any number of blocks.
        pairs: [num_pairs, 2] int64. No block is both read and written, or written twice.
    """
    destination[pairs[:, 1]] = source[pairs[:, 0]]


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
        sinks: Tensor | None = None,
        alibi_slopes: Tensor | None = None,
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
            if alibi_slopes is not None:
                scores += alibi_slopes[:, None, None] * (position - own)
            unseen = position > own
            if window is not None:
                unseen = unseen | (position <= own - window)
            scores = scores.masked_fill(unseen, float("-inf"))
            if sinks is not None:
                scores = torch.cat((scores, sinks[:, None, None].expand(-1, stop - start, 1)), dim=-1)
            weights = scores.softmax(-1)[..., :context_len]
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
