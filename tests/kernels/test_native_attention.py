"""Attention of one token has the same bits however it is computed, and what nobody wrote is never read."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kernels.arguments import PagedBatch
from kernels.cache_rows import row_size
from kernels.ops import REFERENCE, Ops

LENGTHS = [(1, 1), (1, 15), (1, 16), (1, 17), (5, 5), (33, 33), (3, 70), (1, 300), (16, 129), (40, 170), (130, 130)]
"""Tokens of the step and of the context, of each sequence."""


@dataclass
class Caches:
    """The same keys and values in the layout of the ops under test and, as fp32, of the reference; the rest is NaN."""

    own: tuple[Tensor, Tensor]
    plain: tuple[Tensor, Tensor]
    slots: list[Tensor]
    tables: Tensor


def unwritten(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """NaN; for int8 every scale is, whose four bytes are 255."""
    return torch.full(shape, -1 if dtype == torch.int8 else float("nan"), dtype=dtype)


def stored(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """What a cache of this dtype makes of rows [..., head_dim], as fp32."""
    if dtype != torch.int8:
        return rows.to(dtype).float()
    scale = rows.abs().amax(-1, keepdim=True) / 127
    return (rows / scale).round().clamp(-127, 127) * scale


def fill(ops: Ops, contexts: list[int], *, heads: int, head_dim: int, block_size: int, dtype: torch.dtype) -> Caches:
    """Write each sequence's context to scattered blocks."""
    counts = [-(-context // block_size) for context in contexts]
    order = torch.randperm(sum(counts) + 3)
    tables = torch.full((len(contexts), max(counts) + 1), int(order[-1]), dtype=torch.int32)
    own = [
        unwritten(shape, dtype) for shape in ops.cache_shapes(len(order), block_size, heads, row_size(head_dim, dtype))
    ]
    plain = [torch.full(s, float("nan")) for s in REFERENCE.cache_shapes(len(order), block_size, heads, head_dim)]
    slots = []
    for row, (blocks, context) in enumerate(zip(order[: sum(counts)].split(counts), contexts, strict=True)):
        tables[row, : len(blocks)] = blocks
        slots.append((blocks[:, None] * block_size + torch.arange(block_size)).flatten()[:context])
        qkv = torch.randn(context, 1 + 2 * heads, head_dim)
        still = torch.ones(context, head_dim // 2), torch.zeros(context, head_dim // 2)
        ops.rotate_and_write(qkv, *still, *own, slots[-1])
        for cache, numbers in zip(plain, qkv[:, 1:].split(heads, dim=1), strict=True):
            cache.flatten(0, 1)[slots[-1]] = stored(numbers, dtype)
    return Caches((own[0], own[1]), (plain[0], plain[1]), slots, tables)


def batch_of(caches: Caches, block_size: int, members: list[tuple[int, int, int]]) -> PagedBatch:
    """A step of members (sequence, its tokens in the step, its context)."""
    starts = torch.tensor([0, *(tokens for _, tokens, _ in members)]).cumsum(0).int()
    contexts = torch.tensor([context for _, _, context in members], dtype=torch.int32)
    return PagedBatch(starts, contexts, caches.tables[[sequence for sequence, _, _ in members]], block_size)


@pytest.mark.parametrize("heads", [(9, 3), (4, 1), (7, 1), (2, 2), (60, 1)], ids=str)
@pytest.mark.parametrize("sizes", [(16, 16), (64, 16), (48, 32), (128, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8], ids=str)
def test_it_agrees_with_the_reference_on_the_same_numbers(
    ops: Ops, heads: tuple[int, int], sizes: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    head_dim, block_size = sizes
    contexts = [context for _, context in LENGTHS]
    caches = fill(ops, contexts, heads=heads[1], head_dim=head_dim, block_size=block_size, dtype=dtype)
    batch = batch_of(caches, block_size, [(i, tokens, context) for i, (tokens, context) in enumerate(LENGTHS)])
    query = torch.randn(int(batch.query_start[-1]), heads[0], head_dim)
    found = ops.plan_attention(batch)(query, *caches.own, scale=head_dim**-0.5)
    expected = REFERENCE.plan_attention(batch)(query, *caches.plain, scale=head_dim**-0.5)
    assert expected.isfinite().all()
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("heads", [(9, 3), (8, 2), (2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_a_tokens_bits_do_not_depend_on_batch_chunk_blocks_or_threads(
    ops: Ops, heads: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    contexts = [200, 1, 77]
    caches = fill(ops, contexts, heads=heads[1], head_dim=64, block_size=16, dtype=dtype)
    queries = [torch.randn(context, heads[0], 64) for context in contexts]
    whole = batch_of(caches, 16, [(i, context, context) for i, context in enumerate(contexts)])
    together = ops.plan_attention(whole)(torch.cat(queries), *caches.own, scale=0.125).split(contexts)
    before = torch.get_num_threads()
    for chunk, num_threads in ((1, 1), (5, 2), (16, 1), (64, 2)):
        torch.set_num_threads(num_threads)
        for first in range(0, 200, chunk):
            members = [
                (i, min(chunk, context - first), min(first + chunk, context))
                for i, context in enumerate(contexts)
                if first < context
            ]
            rows = torch.cat([queries[i][end - tokens : end] for i, tokens, end in members])
            found = ops.plan_attention(batch_of(caches, 16, members))(rows, *caches.own, scale=0.125)
            for (i, tokens, end), part in zip(members, found.split([m[1] for m in members]), strict=True):
                assert torch.equal(part, together[i][end - tokens : end]), (chunk, first, i)
    torch.set_num_threads(before)


def test_block_size_does_not_change_the_bits(ops: Ops) -> None:
    found = []
    for block_size in (16, 32, 64):
        torch.manual_seed(0)
        numbers, query = torch.randn(150, 1 + 2 * 3, 64), torch.randn(150, 9, 64)
        keys, values = (torch.full(s, float("nan")) for s in ops.cache_shapes(-(-150 // block_size), block_size, 3, 64))
        ops.rotate_and_write(numbers, torch.ones(150, 32), torch.zeros(150, 32), keys, values, torch.arange(150))
        tables = torch.arange(-(-150 // block_size), dtype=torch.int32)[None]
        batch = PagedBatch(torch.tensor([0, 150]).int(), torch.tensor([150]).int(), tables, block_size)
        found.append(ops.plan_attention(batch)(query, keys, values, scale=0.125))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_sequence_of_nan_spoils_itself_alone(ops: Ops) -> None:
    torch.manual_seed(0)
    caches = fill(ops, [20, 33, 9], heads=2, head_dim=16, block_size=16, dtype=torch.float32)
    caches.own[0][int(caches.tables[0, 0])] = float("nan")
    batch = batch_of(caches, 16, [(0, 1, 20), (1, 1, 33), (2, 4, 9)])
    found = ops.plan_attention(batch)(torch.randn(6, 4, 16), *caches.own, scale=0.25)
    assert found[0].isnan().all()
    assert found[1:].isfinite().all()


def test_large_scores_do_not_overflow(ops: Ops) -> None:
    torch.manual_seed(0)
    caches = fill(ops, [100], heads=1, head_dim=16, block_size=16, dtype=torch.float32)
    batch = batch_of(caches, 16, [(0, 2, 100)])
    query = torch.randn(2, 2, 16) * 1e4
    found = ops.plan_attention(batch)(query, *caches.own, scale=1.0)
    torch.testing.assert_close(found, REFERENCE.plan_attention(batch)(query, *caches.plain, scale=1.0))


@pytest.mark.parametrize("window", [1, 20, 64, 100, None])
@pytest.mark.parametrize("soft_cap", [2.0, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8], ids=str)
def test_windows_and_soft_caps_agree(ops: Ops, dtype: torch.dtype, window: int | None, soft_cap: float | None) -> None:
    torch.manual_seed(0)
    caches = fill(ops, [context for _, context in LENGTHS], heads=3, head_dim=32, block_size=16, dtype=dtype)
    batch = batch_of(caches, 16, [(i, tokens, context) for i, (tokens, context) in enumerate(LENGTHS)])
    query = 4 * torch.randn(int(batch.query_start[-1]), 9, 32)
    how = {"scale": 0.2, "window": window, "soft_cap": soft_cap}
    expected = REFERENCE.plan_attention(batch)(query, *caches.plain, **how)
    torch.testing.assert_close(ops.plan_attention(batch)(query, *caches.own, **how), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [20, 64, 100])
def test_a_windowed_tokens_bits_do_not_depend_on_its_chunk(ops: Ops, window: int) -> None:
    torch.manual_seed(0)
    caches = fill(ops, [200], heads=2, head_dim=64, block_size=16, dtype=torch.float32)
    query = torch.randn(200, 8, 64)
    how = {"scale": 0.125, "window": window, "soft_cap": 3.0}
    whole = ops.plan_attention(batch_of(caches, 16, [(0, 200, 200)]))(query, *caches.own, **how)
    for chunk in (1, 5, 64):
        for first in range(0, 200, chunk):
            last = min(200, first + chunk)
            batch = batch_of(caches, 16, [(0, last - first, last)])
            assert torch.equal(ops.plan_attention(batch)(query[first:last], *caches.own, **how), whole[first:last])
