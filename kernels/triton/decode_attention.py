"""Paged attention of sequences that compute one token each: the keys of one sequence are split among programs.

Otherwise a few long sequences would leave most of a GPU idle. Each program leaves its share unnormalised, beside its
maximum and total; a second kernel, launched after the first, merges them.

Source: Flash-Decoding, Dao et al. 2023.
"""

from dataclasses import dataclass, field
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.arguments import PagedBatch
from kernels.triton.attention_arguments import LOG2E, Variant
from kernels.triton.attention_tiles import attend_tiles
from kernels.triton.device import num_multiprocessors, target_of, widens
from kernels.triton.launches import AttentionLaunch, decode_launch
from kernels.triton.splits import num_splits

_PROGRAMS_PER_MULTIPROCESSOR: Final = 2
_MIN_TOKENS: Final = 64
"""Of a share: less is not worth its start and its merging."""


@triton.jit
def decode_attention_kernel(
    output_ptr,
    sums_ptr,
    maxima_ptr,
    totals_ptr,
    query_ptr,
    key_ptr,
    value_ptr,
    block_tables_ptr,
    context_lens_ptr,
    query_start_ptr,
    sinks_ptr,
    slopes_ptr,
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
    TILE: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    IS_FP8: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Rows of a program: up to ROWS query heads of a key head. Grid: (num_seqs, key heads * parts of them, SPLITS).

    Sequences that compute no token are passed over, so that a batch can be padded.
    """
    PARTS: tl.constexpr = (GROUP + ROWS - 1) // ROWS
    sequence = tl.program_id(0)
    kv_head = tl.program_id(1) // PARTS
    split = tl.program_id(2)
    start = tl.load(query_start_ptr + sequence)
    if tl.load(query_start_ptr + sequence + 1) == start:
        return
    context_len = tl.load(context_lens_ptr + sequence)

    row = (tl.program_id(1) % PARTS) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, PADDED_DIM)
    head = kv_head * GROUP + row
    is_row = row < GROUP
    is_number = is_row[:, None] & (dim < HEAD_DIM)[None, :]
    packed = start.to(tl.int64)
    query = tl.load(
        query_ptr + packed * query_stride + head[:, None] * HEAD_DIM + dim[None, :], mask=is_number, other=0.0
    )
    if WIDEN:
        query = query.to(tl.float32)

    maxima = tl.full([ROWS], float("-inf"), tl.float32)
    totals = tl.zeros([ROWS], tl.float32)
    slopes = totals
    if HAS_SINKS:
        if split == 0:
            maxima = tl.load(sinks_ptr + head, mask=is_row, other=0.0).to(tl.float32) * 1.4426950408889634
            totals = tl.full([ROWS], 1.0, tl.float32)
    if HAS_ALIBI:
        slopes = tl.load(slopes_ptr + head, mask=is_row, other=0.0).to(tl.float32) * 1.4426950408889634

    first_token = 0
    if HAS_WINDOW:
        first_token = tl.maximum(0, context_len - window)
    first_tile = first_token // TILE
    end_tile = tl.cdiv(context_len, TILE)
    if SPLITS > 1:
        share = tl.cdiv(end_tile - first_tile, SPLITS)
        first_tile = first_tile + split * share
        end_tile = tl.minimum(end_tile, first_tile + share)
    maxima, totals, sums = attend_tiles(
        query,
        tl.zeros([ROWS], tl.int32) + (context_len - 1),
        slopes,
        maxima,
        totals,
        tl.zeros([ROWS, PADDED_DIM], tl.float32),
        key_ptr,
        value_ptr,
        block_tables_ptr + sequence.to(tl.int64) * table_stride,
        kv_head,
        first_tile,
        end_tile,
        first_token,
        context_len,
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
    place = packed * (NUM_KV_HEADS * GROUP) + head
    if SPLITS == 1:
        output = sums * (value_scale / totals)[:, None]
        tl.store(
            output_ptr + place[:, None] * HEAD_DIM + dim[None, :],
            output.to(output_ptr.dtype.element_ty),
            mask=is_number,
        )
    else:
        place = place * SPLITS + split
        tl.store(sums_ptr + place[:, None] * HEAD_DIM + dim[None, :], sums * value_scale, mask=is_number)
        tl.store(maxima_ptr + place, maxima, mask=is_row)
        tl.store(totals_ptr + place, totals, mask=is_row)


@triton.jit
def merge_splits_kernel(
    output_ptr,
    sums_ptr,
    maxima_ptr,
    totals_ptr,
    query_start_ptr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Merge what `decode_attention_kernel` left. Grid: (num_seqs, NUM_HEADS)."""
    sequence = tl.program_id(0)
    start = tl.load(query_start_ptr + sequence)
    if tl.load(query_start_ptr + sequence + 1) == start:
        return
    dim = tl.arange(0, PADDED_DIM)
    is_dim = dim < HEAD_DIM
    place = start.to(tl.int64) * NUM_HEADS + tl.program_id(1)
    row = place * SPLITS + tl.arange(0, SPLITS)
    maxima = tl.load(maxima_ptr + row)
    # A share without tokens has negative infinity for its maximum, zeros for the rest, and so no weight.
    weights = tl.exp2(maxima - tl.max(maxima, 0))
    total = tl.sum(tl.load(totals_ptr + row) * weights, 0)
    sums = tl.load(sums_ptr + row[:, None] * HEAD_DIM + dim[None, :], mask=is_dim[None, :], other=0.0)
    output = tl.sum(sums * weights[:, None], 0) / total
    tl.store(output_ptr + place * HEAD_DIM + dim, output.to(output_ptr.dtype.element_ty), mask=is_dim)


@dataclass(slots=True)
class DecodeAttention:
    """Of one step, for all layers.

    Attributes:
        batch: Each sequence computes one token, or none.
        max_context: Tokens of any context at most, known on the host.
        splits: Programs that share a sequence; None lets the load decide.
    """

    batch: PagedBatch
    max_context: int
    splits: int | None = None
    _scratch: tuple[Tensor, Tensor, Tensor] | None = field(default=None, init=False)

    def run(self, query: Tensor, key_cache: Tensor, value_cache: Tensor, variant: Variant) -> Tensor:
        """See `kernels.arguments.PagedAttention`."""
        _, num_heads, head_dim = query.shape
        num_kv_heads, num_seqs = key_cache.shape[2], len(self.batch.context_lens)
        group = num_heads // num_kv_heads
        launch = decode_launch(target_of(query.device), head_dim=head_dim, group=group, dtype=query.dtype)
        parts = triton.cdiv(group, launch.rows)
        seen = min(self.max_context, variant.window or self.max_context)
        splits = self.splits or num_splits(
            num_programs=num_seqs * num_kv_heads * parts,
            wanted=num_multiprocessors(query.device) * _PROGRAMS_PER_MULTIPROCESSOR,
            most=seen / _MIN_TOKENS,
        )
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        sums, maxima, totals = self._shares(query, splits)
        batch = self.batch
        decode_attention_kernel[num_seqs, num_kv_heads * parts, splits](
            output,
            sums,
            maxima,
            totals,
            query,
            key_cache,
            value_cache,
            batch.block_tables,
            batch.context_lens,
            batch.query_start,
            output if variant.sinks is None else variant.sinks,
            output if variant.alibi_slopes is None else variant.alibi_slopes,
            batch.block_tables.stride(0),
            query.stride(0),
            variant.score_scale,
            variant.value_scale,
            variant.soft_cap_or_1 * LOG2E,
            variant.window or 0,
            **decode_constants(launch, group, num_kv_heads, head_dim, batch.block_size, splits),
            **variant.constants(),
            WIDEN=widens(query.dtype),
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
        if splits > 1:
            merge_splits_kernel[num_seqs, num_heads](
                output, sums, maxima, totals, batch.query_start, **merge_constants(num_heads, head_dim, splits)
            )
        return output

    def _shares(self, query: Tensor, splits: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sums, maxima and totals of each share; the same memory for all layers."""
        num_tokens, num_heads, head_dim = query.shape
        if self._scratch is None or self._scratch[1].shape[2] != splits:
            shape = (num_tokens, num_heads, splits)
            maxima, totals = torch.empty((2, *shape), dtype=torch.float32, device=query.device)
            self._scratch = maxima.new_empty(*shape, head_dim), maxima, totals
        return self._scratch


def decode_constants(
    launch: AttentionLaunch, group: int, num_kv_heads: int, head_dim: int, block_size: int, splits: int
) -> dict[str, int]:
    """What the first kernel is compiled for, besides the variant."""
    return {
        "GROUP": group,
        "NUM_KV_HEADS": num_kv_heads,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "BLOCK_SIZE": block_size,
        "ROWS": launch.rows,
        "TILE": launch.tile,
        "SPLITS": splits,
    }


def merge_constants(num_heads: int, head_dim: int, splits: int) -> dict[str, int]:
    """What the second kernel is compiled for."""
    return {
        "NUM_HEADS": num_heads,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "SPLITS": splits,
    }
