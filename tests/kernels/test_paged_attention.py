import pytest
import torch
from torch import Tensor

from kernels.arguments import PagedBatch
from kernels.ops import CPU, REFERENCE

BATCHES = {
    "one token of one": [(1, 1)],
    "block edges": [(1, 15), (1, 16), (1, 17), (1, 1)],
    "ragged decode": [(1, 1000), (1, 1), (1, 999), (1, 640), (1, 16)],
    "long decode in several groups": [(1, 1000)] * 11,
    "whole prompts": [(15, 15), (16, 16), (17, 17)],
    "chunks after context": [(2, 3), (16, 160), (33, 1000)],
    "mixed": [(1, 40), (5, 5), (1, 7), (16, 33), (1, 300), (3, 3)],
}


def paged(lengths: list[tuple[int, int]], heads: tuple[int, int], block_size: int) -> tuple[PagedBatch, Tensor, Tensor]:
    """A batch on scattered blocks; every slot that no sequence uses is NaN."""
    torch.manual_seed(0)
    num_blocks = [-(-context // block_size) for _, context in lengths]
    order = torch.randperm(sum(num_blocks) + 3).split([*num_blocks, 3])
    tables = torch.full((len(lengths), max(num_blocks) + 1), sum(num_blocks) + 2, dtype=torch.int32)
    caches = [torch.full((sum(num_blocks) + 3, block_size, heads[1], 16), float("nan")) for _ in range(2)]
    for row, (blocks, (_, context)) in enumerate(zip(order, lengths, strict=False)):
        tables[row, : len(blocks)] = blocks
        slots = (blocks[:, None] * block_size + torch.arange(block_size)).flatten()[:context]
        for cache in caches:
            cache.flatten(0, 1)[slots] = torch.randn(context, heads[1], 16)
    starts = torch.tensor([0, *(query for query, _ in lengths)]).cumsum(0)
    contexts = torch.tensor([context for _, context in lengths])
    return PagedBatch(starts.int(), contexts.int(), tables, block_size), *caches


@pytest.mark.parametrize("heads", [(9, 3), (4, 1), (7, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("block_size", [1, 16])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
def test_attention_agrees_and_unused_slots_do_not_leak(
    lengths: list[tuple[int, int]], block_size: int, heads: tuple[int, int]
) -> None:
    batch, keys, values = paged(lengths, heads, block_size)
    # The query is a slice of a wider tensor, as in the model.
    query = torch.randn(int(batch.query_start[-1]), heads[0] + heads[1], 16)[:, : heads[0]]
    expected = REFERENCE.plan_attention(batch)(query, keys, values, scale=0.25)
    found = CPU.plan_attention(batch)(query, keys, values, scale=0.25)
    assert expected.isfinite().all()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_sequence_of_nan_spoils_itself_alone() -> None:
    batch, keys, values = paged([(1, 20), (1, 33), (4, 9)], (4, 2), 16)
    for cache in (keys, values):
        cache[batch.block_tables[0, 0].item()] = float("nan")
    query = torch.randn(6, 4, 16)
    found = CPU.plan_attention(batch)(query, keys, values, scale=0.25)
    assert found[0].isnan().all()
    assert found[1:].isfinite().all()


def test_one_plan_serves_all_layers() -> None:
    batch, keys, values = paged([(1, 40), (3, 8)], (4, 2), 16)
    attention, query = CPU.plan_attention(batch), torch.randn(4, 4, 16)
    first = attention(query, keys, values, scale=0.25)
    attention(query, values, keys, scale=0.25)
    torch.testing.assert_close(attention(query, keys, values, scale=0.25), first, atol=0, rtol=0)


def test_attention_accumulates_bfloat16_in_float32() -> None:
    batch, keys, values = paged([(1, 700), (6, 300), (1, 20)], (4, 2), 16)
    query = torch.randn(8, 4, 16)
    exact = REFERENCE.plan_attention(batch)(query, keys, values, scale=0.25)
    narrow = CPU.plan_attention(batch)(query.bfloat16(), keys.bfloat16(), values.bfloat16(), scale=0.25)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), exact, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("window", [1, 16, 40, None])
@pytest.mark.parametrize("soft_cap", [2.0, None])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
def test_windows_and_soft_caps_agree(
    lengths: list[tuple[int, int]], window: int | None, soft_cap: float | None
) -> None:
    batch, keys, values = paged(lengths, (4, 2), 16)
    query = 4 * torch.randn(int(batch.query_start[-1]), 4, 16)
    how = {"scale": 0.25, "window": window, "soft_cap": soft_cap}
    expected = REFERENCE.plan_attention(batch)(query, keys, values, **how)
    torch.testing.assert_close(CPU.plan_attention(batch)(query, keys, values, **how), expected, atol=1e-5, rtol=1e-4)
