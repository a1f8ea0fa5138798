"""Sampling on a CPU, in a few passes over the logits and, for most rows, without sorting them."""

from typing import Final

import numpy as np
import torch
from torch import Tensor

from kernels.arguments import SamplingTensors

SHORTLIST: Final = 64
"""Largest weights that are looked at before a row is sorted in full: the nucleus is seldom larger. Of 32 rows of 49,152
PyTorch finds the 64 largest in 2 ms, the 1,024 largest in 15 ms, and sorts in 90 ms; numpy sorts in 4 ms (Zen 5)."""

BLOCK: Final = 256
"""Weights that are summed at once on the way to the chosen one: a running sum of them all in float64 costs 24 ms."""


def sample(logits: Tensor, how: SamplingTensors) -> Tensor:
    """As the reference."""
    scaled = (logits - logits.amax(-1, keepdim=True)).div_(how.temperature[:, None])
    weights = scaled.exp_()
    least = how.min_p.clone()
    if bool((how.top_k > 0).any()):
        least = torch.maximum(least, _kth_largest(weights, how.top_k))
    _drop_below(weights, least)
    nucleus = torch.nonzero(how.top_p < 1).flatten()
    if len(nucleus):
        least[nucleus] = _nucleus_threshold(weights[nucleus], how.top_p[nucleus])
        _drop_below(weights, least)
    return _invert(weights, how.uniforms)


def _drop_below(weights: Tensor, least: Tensor) -> None:
    if bool((least > 0).any()):
        weights.masked_fill_(weights < least[:, None], 0.0)


def _kth_largest(weights: Tensor, top_k: Tensor) -> Tensor:
    """The top_k-th largest weight of each row; 0 where all are kept."""
    kept = top_k.clamp(max=weights.shape[1])
    descending = _largest(weights, int(kept.max()))
    return torch.where(kept > 0, descending.gather(1, (kept - 1).clamp(min=0)[:, None]).squeeze(1), 0.0)


def _nucleus_threshold(weights: Tensor, top_p: Tensor) -> Tensor:
    """The least weight of the fewest tokens that hold a share `top_p` of the mass."""
    wanted = weights.sum(-1, dtype=torch.float64) * top_p
    threshold = torch.zeros(len(weights), dtype=weights.dtype)
    open_rows = torch.arange(len(weights))
    for size in (min(SHORTLIST, weights.shape[1]), weights.shape[1]):
        descending = _largest(weights[open_rows], size)
        mass = descending.cumsum(-1, dtype=torch.float64)
        place = (mass < wanted[open_rows, None]).sum(-1)
        found = place < size
        threshold[open_rows[found]] = descending[found].gather(1, place[found, None]).squeeze(1)
        open_rows = open_rows[~found]
        if not len(open_rows):
            break
    return threshold


def _largest(weights: Tensor, count: int) -> Tensor:
    """The `count` largest weights of each row, in descending order."""
    if count <= SHORTLIST:
        return weights.topk(count, dim=-1).values
    ascending = np.sort(weights.numpy(), axis=-1)
    return torch.from_numpy(ascending[:, : -count - 1 : -1].copy())


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The token at which the cumulative weight passes a share `uniforms` of the total: first its block, then itself."""
    num_rows, num_tokens = weights.shape
    padded = torch.nn.functional.pad(weights, (0, -num_tokens % BLOCK)).view(num_rows, -1, BLOCK)
    through = padded.sum(-1, dtype=torch.float64).cumsum(-1)
    target = uniforms[:, None] * through[:, -1:]
    block = torch.searchsorted(through, target, right=True)
    before = torch.where(block > 0, through.gather(1, (block - 1).clamp(min=0)), 0.0)
    chosen = padded.gather(1, block[..., None].expand(-1, -1, BLOCK)).squeeze(1)
    inside = before + chosen.cumsum(-1, dtype=torch.float64)
    # The last sum of a block can round below its total; the token is then the block's last one with a weight.
    inside = torch.where(inside >= inside[:, -1:], torch.inf, inside)
    return (block * BLOCK + torch.searchsorted(inside, target, right=True)).squeeze(1)
