"""Chooses a token for each row of logits without sorting them: thresholds are found by search.

One program takes one row. Weights are positive floats, whose order is that of their bits; a pass over the row compares
with three thresholds at once and so finds 2 bits more of the one that is looked for, until all weights that are still
in question are the same. Sums stay apart in their lanes until a pass is over: adding them up after each tile would cost
more than the rest of the pass.

Source: the search instead of a sort as in FlashInfer, Ye et al. 2025 (arXiv 2501.01005); here by bits, so that it ends
after 15 passes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arguments import SamplingTensors
from kernels.triton.device import target_of
from kernels.triton.launches import sample_launch


@triton.jit
def count_or_sum(weights, threshold, least, IS_MASS: tl.constexpr):
    """What each lane adds for the weights that reach both: itself, or 1."""
    reaches = (weights >= threshold) & (weights >= least)
    return tl.where(reaches, weights, 0.0).to(tl.float64) if IS_MASS else reaches.to(tl.int32)


@triton.jit
def find_threshold(weights_ptr, vocab_size, least, wanted, IS_MASS: tl.constexpr, COLUMNS: tl.constexpr):
    """The largest weight that is reached by so many weights (or so much of their sum), of those from `least` on.

    Weights are 1 at most: their bits, 0x3F800000, are below 2**30.
    """
    column = tl.arange(0, COLUMNS)
    low = least.to(tl.uint32, bitcast=True)
    width = tl.full([], 1 << 30, tl.uint32)
    while width > 1:
        quarter = width // 4
        first_threshold = (low + quarter).to(tl.float32, bitcast=True)
        second_threshold = (low + 2 * quarter).to(tl.float32, bitcast=True)
        third_threshold = (low + 3 * quarter).to(tl.float32, bitcast=True)
        from_low = low.to(tl.float32, bitcast=True)
        to_high = (low + width).to(tl.float32, bitcast=True)
        first_sums = tl.zeros([COLUMNS], tl.float64 if IS_MASS else tl.int32)
        second_sums = first_sums
        third_sums = first_sums
        smallest = tl.full([COLUMNS], float("inf"), tl.float32)
        largest = tl.zeros([COLUMNS], tl.float32)
        for first in range(0, vocab_size, COLUMNS):
            weights = tl.load(weights_ptr + first + column, mask=first + column < vocab_size, other=0.0)
            first_sums += count_or_sum(weights, first_threshold, least, IS_MASS)
            second_sums += count_or_sum(weights, second_threshold, least, IS_MASS)
            third_sums += count_or_sum(weights, third_threshold, least, IS_MASS)
            is_in_question = (weights >= from_low) & (weights < to_high)
            smallest = tl.minimum(smallest, tl.where(is_in_question, weights, float("inf")))
            largest = tl.maximum(largest, tl.where(is_in_question, weights, 0.0))
        num_quarters = (tl.sum(first_sums, 0).to(tl.float64) >= wanted).to(tl.uint32)
        num_quarters += (tl.sum(second_sums, 0).to(tl.float64) >= wanted).to(tl.uint32)
        num_quarters += (tl.sum(third_sums, 0).to(tl.float64) >= wanted).to(tl.uint32)
        only = tl.min(smallest, 0)
        is_found = only >= tl.max(largest, 0)
        low = tl.where(is_found & (only <= 1.0), only.to(tl.uint32, bitcast=True), low + num_quarters * quarter)
        width = tl.where(is_found, 1, quarter)
    return low.to(tl.float32, bitcast=True)


@triton.jit
def sample_kernel(
    token_ptr,
    weights_ptr,
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
    """See `kernels.reference.sample`; `weights`: [num_rows, vocab_size] float32, to write in. Grid: (num_rows,)."""
    row = tl.program_id(0)
    logits_ptr += row.to(tl.int64) * row_stride
    weights_ptr += row.to(tl.int64) * vocab_size
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
    for first in range(0, vocab_size, COLUMNS):
        is_column = first + column < vocab_size
        logits = tl.load(logits_ptr + first + column, mask=is_column, other=float("-inf"))
        tl.store(weights_ptr + first + column, tl.exp((logits - largest) / temperature), mask=is_column)
    tl.debug_barrier()

    if top_k > 0:
        kept = tl.minimum(top_k, vocab_size).to(tl.float64)
        kth = find_threshold(weights_ptr, vocab_size, least, kept, False, COLUMNS)
        least = tl.maximum(least, kth)
    if top_p < 1:
        mass = kept_mass(weights_ptr, vocab_size, least, COLUMNS)
        nucleus = find_threshold(weights_ptr, vocab_size, least, top_p * mass, True, COLUMNS)
        least = tl.maximum(least, nucleus)

    # The first token whose running sum is above the target: its tile first, then its place there.
    target = uniform * kept_mass(weights_ptr, vocab_size, least, COLUMNS)
    before = tl.zeros([], tl.float64)
    tile_mass = before
    first = tl.zeros([], tl.int32) - COLUMNS
    while (tile_mass + before <= target) & (first + COLUMNS < vocab_size):
        before += tile_mass
        first += COLUMNS
        tile_mass = tl.sum(load_kept(weights_ptr, first + column, vocab_size, least), 0)
    weights = load_kept(weights_ptr, first + column, vocab_size, least)
    sums = before + tl.cumsum(weights, 0)
    token = first + tl.sum((sums <= target).to(tl.int32), 0)
    # Rounding can leave the last sum at the target: it is then the last token with a weight.
    last = tl.zeros([COLUMNS], tl.int32)
    if token >= first + tl.max(tl.where(weights > 0, column + 1, 0), 0):
        for again in range(0, vocab_size, COLUMNS):
            is_kept = load_kept(weights_ptr, again + column, vocab_size, least) > 0
            last = tl.maximum(last, tl.where(is_kept, again + column, 0))
        token = tl.minimum(token, tl.max(last, 0))
    tl.store(token_ptr + row, token.to(tl.int64))


@triton.jit
def load_kept(weights_ptr, column, vocab_size, least):
    """Weights of some columns, float64; 0 for those below `least`, and behind the vocabulary."""
    weights = tl.load(weights_ptr + column, mask=column < vocab_size, other=0.0)
    return tl.where(weights >= least, weights, 0.0).to(tl.float64)


@triton.jit
def kept_mass(weights_ptr, vocab_size, least, COLUMNS: tl.constexpr):
    """The sum of all weights from `least` on."""
    masses = tl.zeros([COLUMNS], tl.float64)
    for first in range(0, vocab_size, COLUMNS):
        masses += load_kept(weights_ptr, first + tl.arange(0, COLUMNS), vocab_size, least)
    return tl.sum(masses, 0)


def sample(logits: Tensor, how: SamplingTensors) -> Tensor:
    """As the reference."""
    num_rows, vocab_size = logits.shape
    tokens = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    if num_rows:
        launch = sample_launch(target_of(logits.device))
        sample_kernel[num_rows,](
            tokens,
            torch.empty(num_rows, vocab_size, dtype=torch.float32, device=logits.device),
            logits,
            how.temperature,
            how.top_k,
            how.top_p,
            how.min_p,
            how.uniforms,
            logits.stride(0),
            vocab_size,
            COLUMNS=launch.columns,
            num_warps=launch.num_warps,
        )
    return tokens
