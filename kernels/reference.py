"""Every op in plain PyTorch, written to be read: what the devices' kernels are tested against.

It runs on any device and holds no trick.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kernels.arguments import Linear, PagedAttention, PagedBatch, SamplingTensors


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


def pack_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """Prepare a matrix.

    Args:
        weight: [out_features, in_features].
        bias: [out_features].
    """
    return _Linear(weight, bias)


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


def write_kv(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor) -> None:
    """Put this step's keys and values into the cache.

    Args:
        key: [num_tokens, num_kv_heads, head_dim].
        value: As `key`.
        key_cache: [num_blocks, block_size, num_kv_heads, head_dim].
        value_cache: As `key_cache`.
        slots: [num_tokens] int64, `block * block_size + offset` of each token.
    """
    key_cache.flatten(0, 1)[slots] = key
    value_cache.flatten(0, 1)[slots] = value


@dataclass(frozen=True, slots=True)
class _PagedAttention:
    batch: PagedBatch

    def __call__(self, query: Tensor, key_cache: Tensor, value_cache: Tensor, *, scale: float) -> Tensor:
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
            future = position > torch.arange(context_len - (stop - start), context_len, device=query.device)[:, None]
            weights = scores.masked_fill(future, float("-inf")).softmax(-1)
            output[start:stop] = torch.einsum("htc,chd->thd", weights, values).to(query.dtype)
        return output


def plan_attention(batch: PagedBatch) -> PagedAttention:
    """Prepare a step's attention.

    Source: block tables, Kwon et al. 2023.
    """
    return _PagedAttention(batch)


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
