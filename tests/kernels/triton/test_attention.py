"""Both kernels in Triton's interpreter beside the plain reference.

Slots that no sequence has are NaN, and so is the output before it is written.
"""

import pytest
import torch
from torch import Tensor

from kernels import reference
from kernels.arguments import PagedBatch
from kernels.triton.attention import plan_attention
from kernels.triton.attention_arguments import Variant
from kernels.triton.decode_attention import DecodeAttention
from kernels.triton.prefill_attention import PrefillAttention

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _poisoned_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.empty

    def empty(*shape: object, **options: object) -> Tensor:
        made = real(*shape, **options)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", empty)


class Case:
    """A batch on scattered blocks, with a query that is a slice of a wider tensor, as in the model."""

    def __init__(
        self,
        lengths: list[tuple[int, int]],
        *,
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 64,
        block_size: int = 16,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        torch.manual_seed(0)
        counts = [-(-context // block_size) for _, context in lengths]
        order = torch.randperm(sum(counts) + 3).split([*counts, 3])
        tables = torch.full((len(lengths), max(counts) + 1), sum(counts) + 2, dtype=torch.int32)
        self.caches = [
            torch.full((sum(counts) + 3, block_size, heads[1], head_dim), float("nan"), dtype=dtype) for _ in range(2)
        ]
        for row, (blocks, (_, context)) in enumerate(zip(order, lengths, strict=False)):
            tables[row, : len(blocks)] = blocks
            slots = (blocks[:, None] * block_size + torch.arange(block_size)).flatten()[:context]
            for cache in self.caches:
                cache.flatten(0, 1)[slots] = torch.randn(context, heads[1], head_dim).to(dtype)
        starts = torch.tensor([0, *(query for query, _ in lengths)]).cumsum(0).int()
        contexts = torch.tensor([context for _, context in lengths]).int()
        is_decode = all(query <= 1 for query, _ in lengths)
        self.batch = PagedBatch(starts, contexts, tables, block_size, is_decode)
        self.query = torch.randn(int(starts[-1]), heads[0] + heads[1], head_dim).to(dtype)[:, : heads[0]]
        self.scale = head_dim**-0.5

    def check(self, found: Tensor, **variant: object) -> None:
        keys, values = (cache.float() for cache in self.caches)
        attention = reference.plan_attention(self.batch)
        expected = attention(self.query.float(), keys, values, scale=self.scale, **variant)
        assert expected.isfinite().all()
        tolerance = TOLERANCE[self.query.dtype]
        torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)

    def planned(self, **variant: object) -> Tensor:
        return plan_attention(self.batch)(self.query, *self.caches, scale=self.scale, **variant)

    def split(self, splits: int, **variant: object) -> Tensor:
        names = {"window": None, "soft_cap": None, "sinks": None, "alibi_slopes": None} | variant
        plain = Variant(scale=self.scale, key_scale=1.0, value_scale=1.0, is_fp8=False, **names)
        return DecodeAttention(self.batch, 1000, splits).run(self.query, *self.caches, plain)


DECODES = [(1, 15), (1, 1), (1, 17), (0, 16), (1, 130)]
MIXED = [(1, 40), (5, 5), (0, 3), (16, 33), (1, 1)]
VARIANTS = {
    "window": {"window": 7},
    "soft cap": {"soft_cap": 2.0},
    "sinks": {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    "ALiBi": {"alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
    "all": {
        "window": 20,
        "soft_cap": 3.0,
        "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0]),
        "alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625]),
    },
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_decodes_and_mixed_batches_agree(dtype: torch.dtype) -> None:
    for lengths in (DECODES, MIXED):
        case = Case(lengths, dtype=dtype)
        case.check(case.planned())


def test_a_context_of_a_thousand_tokens() -> None:
    case = Case([(1, 1000)])
    case.check(case.split(1))
    case.check(case.split(4))
    case = Case([(3, 1000)], heads=(2, 1), block_size=1)
    case.check(case.planned())


@pytest.mark.parametrize("heads", [(9, 3), (7, 1), (20, 1)], ids=str)
def test_groups_of_any_size(heads: tuple[int, int]) -> None:
    for lengths in ([(1, 17), (1, 33)], [(11, 12), (1, 3)]):
        case = Case(lengths, heads=heads)
        case.check(case.planned())


@pytest.mark.parametrize("head_dim", [80, 96, 128, 256])
def test_head_dims_of_any_size(head_dim: int) -> None:
    for lengths in ([(1, 17)], [(4, 20)]):
        case = Case(lengths, head_dim=head_dim)
        case.check(case.planned())


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_variants_agree(variant: dict[str, object]) -> None:
    case = Case([(1, 1), (5, 5), (4, 100)])
    case.check(case.planned(**variant), **variant)
    case = Case([(1, 1), (1, 100), (0, 3)])
    case.check(case.split(1, **variant), **variant)
    case.check(case.split(8, **variant), **variant)


@pytest.mark.parametrize("lengths", [[(1, 33), (1, 1)], [(3, 20)]], ids=["decode", "prefill"])
def test_fp8_caches_with_their_scales(lengths: list[tuple[int, int]]) -> None:
    case = Case(lengths, dtype=torch.float16)
    key_scale, value_scale = 0.5, 0.25
    exact = case.caches
    rounded = [(cache / scale).to(torch.float8_e4m3fn) for cache, scale in zip(exact, (0.5, 0.25), strict=True)]
    attention = plan_attention(case.batch)
    found = attention(case.query, *rounded, scale=case.scale, key_scale=key_scale, value_scale=value_scale)
    case.caches = [rounded[0].float() * key_scale, rounded[1].float() * value_scale]
    case.check(found)


def test_rows_that_compute_nothing_are_not_written() -> None:
    for kernel in (lambda batch: DecodeAttention(batch, 16), PrefillAttention):
        case = Case([(1, 3), (0, 1), (0, 1)])
        # As a captured batch is padded: more rows of tokens than the sequences compute.
        case.query = case.query.expand(3, -1, -1).contiguous()
        plain = Variant(case.scale, None, None, None, None, 1.0, 1.0, is_fp8=False)
        found = kernel(case.batch).run(case.query, *case.caches, plain)
        assert found[0].isfinite().all()
        assert found[1:].isnan().all()
