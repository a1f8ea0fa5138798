"""Paged attention of sequences that compute any number of tokens: prompts, chunks, and decodes beside them.

One program takes some tokens of one sequence and all query heads that share a key head, so that a tile of keys is read
once for all of them. The grid is an upper bound that follows from shapes alone; a program finds its sequence by binary
search, and ends at once if there is none.

Source: FlashAttention-2, Dao 2023; the packing of heads and the grid, Ringlein et al. 2025 (arXiv 2511.11581).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arguments import PagedBatch
from kernels.triton.attention_arguments import LOG2E, Variant
from kernels.triton.attention_tiles import attend_tiles
from kernels.triton.device import target_of, widens
from kernels.triton.launches import AttentionLaunch, prefill_launch


@triton.jit
def find_sequence(query_start_ptr, index, num_seqs, TOKENS: tl.constexpr):
    """The sequence of a program: sequence i owns those from `query_start[i] // TOKENS + i` on."""
    low = 0
    high = num_seqs
    while low < high:
        middle = (low + high) // 2
        if tl.load(query_start_ptr + middle) // TOKENS + middle <= index:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def prefill_attention_kernel(
    output_ptr,
    query_ptr,
    key_ptr,
    value_ptr,
    block_tables_ptr,
    context_lens_ptr,
    query_start_ptr,
    sinks_ptr,
    slopes_ptr,
    num_seqs,
    table_stride,
    query_stride,
    score_scale,
    value_scale,
    soft_cap,
    window,
    GROUP: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    TILE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    IS_FP8: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Rows of a program: TOKENS tokens times GROUP query heads, padded to ROWS. Grid: see `prefill_grid`."""
    index = tl.program_id(0)
    kv_head = tl.program_id(1)
    sequence = find_sequence(query_start_ptr, index, num_seqs, TOKENS)
    start = tl.load(query_start_ptr + sequence)
    num_tokens = tl.load(query_start_ptr + sequence + 1) - start
    first = (index - (start // TOKENS + sequence)) * TOKENS
    if first >= num_tokens:
        return
    past = tl.load(context_lens_ptr + sequence) - num_tokens

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, PADDED_DIM)
    token = first + row // GROUP
    head = kv_head * GROUP + row % GROUP
    is_row = (token < num_tokens) & (row < TOKENS * GROUP)
    is_number = is_row[:, None] & (dim < HEAD_DIM)[None, :]
    packed = (start + token).to(tl.int64)
    query = tl.load(
        query_ptr + (packed * query_stride + head * HEAD_DIM)[:, None] + dim[None, :], mask=is_number, other=0.0
    )
    if WIDEN:
        query = query.to(tl.float32)

    maxima = tl.full([ROWS], float("-inf"), tl.float32)
    totals = tl.zeros([ROWS], tl.float32)
    slopes = totals
    if HAS_SINKS:
        maxima = tl.load(sinks_ptr + head, mask=is_row, other=0.0).to(tl.float32) * 1.4426950408889634
        totals = tl.full([ROWS], 1.0, tl.float32)
    if HAS_ALIBI:
        slopes = tl.load(slopes_ptr + head, mask=is_row, other=0.0).to(tl.float32) * 1.4426950408889634

    sums = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    table_ptr = block_tables_ptr + sequence.to(tl.int64) * table_stride
    end_token = past + tl.minimum(first + TOKENS, num_tokens)
    first_token = 0
    first_tile = 0
    if HAS_WINDOW:
        first_token = tl.maximum(0, past + first - window + 1)
        first_tile = first_token // TILE
    else:
        # Most tiles lie wholly before the first row's own token.
        first_tile = (past + first + 1) // TILE
        maxima, totals, sums = attend_tiles(
            query,
            past + token,
            slopes,
            maxima,
            totals,
            sums,
            key_ptr,
            value_ptr,
            table_ptr,
            kv_head,
            0,
            first_tile,
            first_token,
            end_token,
            score_scale,
            soft_cap,
            window,
            NUM_KV_HEADS,
            HEAD_DIM,
            PADDED_DIM,
            BLOCK_SIZE,
            TILE,
            HAS_WINDOW,
            HAS_SOFT_CAP,
            HAS_ALIBI,
            IS_FP8,
            WIDEN,
            True,
        )
    maxima, totals, sums = attend_tiles(
        query,
        past + token,
        slopes,
        maxima,
        totals,
        sums,
        key_ptr,
        value_ptr,
        table_ptr,
        kv_head,
        first_tile,
        tl.cdiv(end_token, TILE),
        first_token,
        end_token,
        score_scale,
        soft_cap,
        window,
        NUM_KV_HEADS,
        HEAD_DIM,
        PADDED_DIM,
        BLOCK_SIZE,
        TILE,
        HAS_WINDOW,
        HAS_SOFT_CAP,
        HAS_ALIBI,
        IS_FP8,
        WIDEN,
        False,
    )
    output = sums * (value_scale / tl.where(totals == 0.0, 1.0, totals))[:, None]
    output_row = (packed * (NUM_KV_HEADS * GROUP) + head) * HEAD_DIM
    tl.store(output_ptr + output_row[:, None] + dim[None, :], output.to(output_ptr.dtype.element_ty), mask=is_number)


def prefill_grid(num_tokens: int, num_seqs: int, tokens_per_program: int) -> int:
    """Programs for each key head that are enough however the tokens are shared among the sequences."""
    return num_tokens // tokens_per_program + num_seqs


@dataclass(frozen=True, slots=True)
class PrefillAttention:
    """Of one step, for all layers."""

    batch: PagedBatch

    def run(self, query: Tensor, key_cache: Tensor, value_cache: Tensor, variant: Variant) -> Tensor:
        """See `kernels.arguments.PagedAttention`."""
        num_tokens, num_heads, head_dim = query.shape
        num_kv_heads = key_cache.shape[2]
        group = num_heads // num_kv_heads
        launch = prefill_launch(target_of(query.device), head_dim=head_dim, group=group, dtype=query.dtype)
        # Not torch.empty_like: the query may be a slice.
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        batch, num_seqs = self.batch, len(self.batch.context_lens)
        grid = (prefill_grid(num_tokens, num_seqs, launch.rows // group), num_kv_heads)
        prefill_attention_kernel[grid](
            output,
            query,
            key_cache,
            value_cache,
            batch.block_tables,
            batch.context_lens,
            batch.query_start,
            output if variant.sinks is None else variant.sinks,
            output if variant.alibi_slopes is None else variant.alibi_slopes,
            num_seqs,
            batch.block_tables.stride(0),
            query.stride(0),
            variant.score_scale,
            variant.value_scale,
            variant.soft_cap_or_1 * LOG2E,
            variant.window or 0,
            **prefill_constants(launch, group, num_kv_heads, head_dim, batch.block_size),
            **variant.constants(),
            WIDEN=widens(query.dtype),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        return output


def prefill_constants(
    launch: AttentionLaunch, group: int, num_kv_heads: int, head_dim: int, block_size: int
) -> dict[str, int]:
    """What the kernel is compiled for, besides the variant."""
    return {
        "GROUP": group,
        "NUM_KV_HEADS": num_kv_heads,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "BLOCK_SIZE": block_size,
        "ROWS": launch.rows,
        "TOKENS": launch.rows // group,
        "TILE": launch.tile,
    }
