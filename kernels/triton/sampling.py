"""Chooses a token for each row of logits without sorting them: thresholds are found by search.

One program takes one row. Weights are positive floats, whose order is that of their bits; a pass over the row compares
with 15 thresholds at once and so finds 4 bits more of the one that is looked for.

Source: the search instead of a sort as in FlashInfer, Ye et al. 2025 (arXiv 2501.01005); here by bits, so that it ends
after 8 passes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arguments import SamplingTensors

COLUMNS = 1024
"""Weights that are looked at together."""


@triton.jit
def load_weights(logits_ptr, column, vocab_size, largest, temperature):
    """exp((logit - largest) / temperature) of some columns, float32; 0 behind the vocabulary."""
    logits = tl.load(logits_ptr + column, mask=column < vocab_size, other=float("-inf"))
    return tl.exp((logits - largest) / temperature)


@triton.jit
def find_threshold(
    logits_ptr, vocab_size, largest, temperature, least, wanted, IS_MASS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The largest weight that is reached by so many weights (or so much of their sum), of those from `least` on.

    Weights are 1 at most, whose bits are 0x3F800000: the first digit, of 4 bits, is 0 to 3.
    """
    found = tl.zeros([], tl.uint32)
    digit = tl.arange(0, 16).to(tl.uint32)
    for step in range(8):
        shift = 28 - 4 * step
        candidates = found + (digit << shift)
        thresholds = candidates.to(tl.float32, bitcast=True)
        reached = tl.zeros([16], tl.float64)
        for first in range(0, vocab_size, COLUMNS):
            weights = load_weights(logits_ptr, first + tl.arange(0, COLUMNS), vocab_size, largest, temperature)
            # Digits above 7 of the first place are negative zero, negative numbers and NaN: no weight reaches them.
            counts = (weights[:, None] >= thresholds[None, :]) & (weights >= least)[:, None]
            counts = counts & ((candidates >> 31) == 0)[None, :]
            if IS_MASS:
                reached += tl.sum(tl.where(counts, weights[:, None].to(tl.float64), 0.0), 0)
            else:
                reached += tl.sum(counts.to(tl.int32), 0).to(tl.float64)
        # Digit 0 always does: it is what was found so far.
        most = tl.max(tl.where((reached >= wanted) | (digit == 0), digit, 0), 0)
        found = found + (most << shift)
    return found.to(tl.float32, bitcast=True)


@triton.jit
def sample_kernel(
    token_ptr,
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    uniforms_ptr,
    row_stride,
    vocab_size,
    COLUMNS: tl.constexpr,
):
    """See `kernels.reference.sample`. Grid: (num_rows,)."""
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * row_stride
    temperature = tl.load(temperature_ptr + row)
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    least = tl.load(min_p_ptr + row)
    uniform = tl.load(uniforms_ptr + row)

    column = tl.arange(0, COLUMNS)
    largest = tl.full([COLUMNS], float("-inf"), tl.float32)
    for first in range(0, vocab_size, COLUMNS):
        logits = tl.load(logits_ptr + first + column, mask=first + column < vocab_size, other=float("-inf"))
        largest = tl.maximum(largest, logits)
    largest = tl.max(largest, 0)

    if top_k > 0:
        kept = tl.minimum(top_k, vocab_size).to(tl.float64)
        kth = find_threshold(logits_ptr, vocab_size, largest, temperature, 0.0, kept, False, COLUMNS)
        least = tl.maximum(least, kth)
    if top_p < 1:
        mass = tl.zeros([], tl.float64)
        for first in range(0, vocab_size, COLUMNS):
            weights = load_weights(logits_ptr, first + column, vocab_size, largest, temperature)
            mass += tl.sum(tl.where(weights >= least, weights, 0.0).to(tl.float64), 0)
        nucleus = find_threshold(logits_ptr, vocab_size, largest, temperature, least, top_p * mass, True, COLUMNS)
        least = tl.maximum(least, nucleus)

    mass = tl.zeros([], tl.float64)
    for first in range(0, vocab_size, COLUMNS):
        weights = load_weights(logits_ptr, first + column, vocab_size, largest, temperature)
        mass += tl.sum(tl.where(weights >= least, weights, 0.0).to(tl.float64), 0)
    # The first token whose running sum is above the target has as many before it as have sums that are not.
    target = uniform * mass
    before = tl.zeros([], tl.float64)
    token = tl.zeros([], tl.int32)
    last = tl.zeros([], tl.int32)
    for first in range(0, vocab_size, COLUMNS):
        weights = load_weights(logits_ptr, first + column, vocab_size, largest, temperature)
        weights = tl.where(weights >= least, weights, 0.0).to(tl.float64)
        sums = before + tl.cumsum(weights, 0)
        token += tl.sum((sums <= target).to(tl.int32), 0)
        last = tl.maximum(last, tl.max(tl.where(weights > 0, first + column, 0), 0))
        before += tl.sum(weights, 0)
    # Rounding can leave the last sum at the target: it is then the last token with a weight.
    tl.store(token_ptr + row, tl.minimum(token, last).to(tl.int64))


def sample(logits: Tensor, how: SamplingTensors) -> Tensor:
    """As the reference."""
    num_rows, vocab_size = logits.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows:
        sample_kernel[num_rows,](
            tokens,
            logits,
            how.temperature,
            how.top_k,
            how.top_p,
            how.min_p,
            how.uniforms,
            logits.stride(0),
            vocab_size,
            COLUMNS=COLUMNS,
            num_warps=4,
        )
    return tokens
