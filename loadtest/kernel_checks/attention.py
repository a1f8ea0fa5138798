"""Checks of paged attention: decode with its splits, prefill, every variant, caches in fp8."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor

from kernels import reference
from kernels.arguments import PagedBatch
from kernels.triton.attention import plan_attention
from kernels.triton.attention_arguments import Variant
from kernels.triton.decode_attention import DecodeAttention
from kernels.triton.prefill_attention import PrefillAttention
from loadtest.kernel_checks.check import TOLERANCE, Comparison, KernelCheck

_DECODE: Final = ("decode_attention_kernel",)
_SPLIT: Final = ("decode_attention_kernel", "merge_splits_kernel")
_PREFILL: Final = ("prefill_attention_kernel",)
_SINKS: Final = torch.tensor([0.5, -1.0, 2.0, 0.0])
_SLOPES: Final = torch.tensor([0.5, 0.25, 0.125, 0.0625])
_VARIANTS: Final[Mapping[str, dict[str, Any]]] = {
    "window": {"window": 7},
    "soft cap": {"soft_cap": 2.0},
    "sinks": {"sinks": _SINKS},
    "ALiBi": {"alibi_slopes": _SLOPES},
    "all variants": {"window": 20, "soft_cap": 3.0, "sinks": _SINKS, "alibi_slopes": _SLOPES},
}
_DECODES: Final = ((1, 15), (1, 1), (1, 17), (0, 16), (1, 130))
_MIXED: Final = ((1, 40), (5, 5), (0, 3), (16, 33), (1, 1))


@dataclass(frozen=True)
class _Batch:
    """Sequences on scattered blocks; slots that no sequence has are NaN.

    Attributes:
        lengths: Tokens computed, and of the context, of each sequence.
        splits: Of a decode; None lets the load decide.
        scales: By which keys and values are divided before they are rounded to fp8; None leaves them.
    """

    lengths: tuple[tuple[int, int], ...]
    heads: tuple[int, int] = (4, 2)
    head_dim: int = 64
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    splits: int | None = None
    scales: tuple[float, float] | None = None
    variant: Mapping[str, Any] = field(default_factory=dict)

    def compare(self, device: torch.device) -> Iterator[Comparison]:
        """Run the kernel that fits, and the reference."""
        batch, caches, query = self._make()
        keys, values = (cache.float() for cache in caches)
        on_device = {
            name: given.to(device) if isinstance(given, Tensor) else given for name, given in self.variant.items()
        }
        if self.scales is not None:
            caches = [(cache / scale).to(torch.float8_e4m3fn) for cache, scale in zip(caches, self.scales, strict=True)]
            keys, values = (cache.float() * scale for cache, scale in zip(caches, self.scales, strict=True))
        scale = self.head_dim**-0.5
        attention = reference.plan_attention(batch)
        expected = attention(query.float(), keys, values, scale=scale, **self.variant)
        found = self._attend(_moved(batch, device), [cache.to(device) for cache in caches], query, scale, on_device)
        tolerance = TOLERANCE[self.dtype]
        yield Comparison(found, expected, tolerance)

    def _attend(
        self, batch: PagedBatch, caches: list[Tensor], query: Tensor, scale: float, variant: Mapping[str, Any]
    ) -> Tensor:
        # A slice of a wider tensor, as in the model.
        query = query.to(caches[0].device)
        wide = torch.cat((query, query), dim=1)[:, : query.shape[1]]
        if self.splits is not None:
            names = {"window": None, "soft_cap": None, "sinks": None, "alibi_slopes": None, **variant}
            plain = Variant(scale=scale, key_scale=1.0, value_scale=1.0, is_fp8=False, **names)
            return DecodeAttention(batch, 1000, self.splits).run(wide, caches[0], caches[1], plain)
        scales = {} if self.scales is None else dict(zip(("key_scale", "value_scale"), self.scales, strict=True))
        attend: Any = plan_attention(batch)
        attended: Tensor = attend(wide, *caches, scale=scale, **scales, **variant)
        return attended

    def _make(self) -> tuple[PagedBatch, list[Tensor], Tensor]:
        counts = [-(-context // self.block_size) for _, context in self.lengths]
        order = torch.split(torch.randperm(sum(counts) + 3), [*counts, 3])
        tables = torch.full((len(self.lengths), max(counts) + 1), sum(counts) + 2, dtype=torch.int32)
        shape = sum(counts) + 3, self.block_size, self.heads[1], self.head_dim
        caches = [torch.full(shape, float("nan"), dtype=self.dtype) for _ in range(2)]
        for row, (blocks, (_, context)) in enumerate(zip(order, self.lengths, strict=False)):
            tables[row, : len(blocks)] = blocks
            slots = (blocks[:, None] * self.block_size + torch.arange(self.block_size)).flatten()[:context]
            for cache in caches:
                cache.flatten(0, 1)[slots] = torch.randn(context, self.heads[1], self.head_dim).to(self.dtype)
        starts = torch.tensor([0, *(computed for computed, _ in self.lengths)]).cumsum(0).int()
        contexts = torch.tensor([context for _, context in self.lengths]).int()
        is_decode = all(computed <= 1 for computed, _ in self.lengths)
        query = torch.randn(int(starts[-1]), self.heads[0], self.head_dim).to(self.dtype)
        return PagedBatch(starts, contexts, tables, self.block_size, is_decode), caches, query


def _moved(batch: PagedBatch, device: torch.device) -> PagedBatch:
    return replace(
        batch,
        query_start=batch.query_start.to(device),
        context_lens=batch.context_lens.to(device),
        block_tables=batch.block_tables.to(device),
    )


def _padding(kernel: Callable[[PagedBatch], Any]) -> Callable[[torch.device], Iterator[Comparison]]:
    """As a captured batch is padded: more rows of tokens than the sequences compute; those are not written."""

    def compare(device: torch.device) -> Iterator[Comparison]:
        case = _Batch(((1, 3), (0, 1), (0, 1)))
        batch, caches, query = case._make()
        scale = case.head_dim**-0.5
        expected = torch.full((3, *query.shape[1:]), float("nan"))
        expected[:1] = reference.plan_attention(batch)(query, caches[0], caches[1], scale=scale)
        plain = Variant(scale, None, None, None, None, 1.0, 1.0, is_fp8=False)
        on_device = [cache.to(device) for cache in caches]
        query = query.expand(3, -1, -1).contiguous().to(device)
        yield Comparison(kernel(_moved(batch, device)).run(query, *on_device, plain), expected, 1e-5)

    return compare


def _checks() -> Iterator[KernelCheck]:
    for dtype in TOLERANCE:
        name = str(dtype).removeprefix("torch.")
        decode, mixed = _Batch(_DECODES, dtype=dtype), _Batch(_MIXED, dtype=dtype)
        yield KernelCheck(f"decode, ragged, {name}", _DECODE, decode.compare)
        yield KernelCheck(f"mixed, ragged, {name}", _PREFILL, mixed.compare)
    for context in (1, 15, 16, 17):
        yield KernelCheck(f"decode, context {context}", _DECODE, _Batch(((1, context),)).compare)
        yield KernelCheck(f"prefill of {context}", _PREFILL, _Batch(((context, context),)).compare)
    for splits in (1, 4):
        name = f"decode of 1,000 tokens in {splits} parts"
        yield KernelCheck(name, _SPLIT, _Batch(((1, 1000),), splits=splits).compare)
    long = _Batch(((3, 1000),), heads=(2, 1), block_size=1)
    yield KernelCheck("3 tokens after 997, blocks of 1", _PREFILL, long.compare)
    for heads in ((9, 3), (7, 1), (20, 1)):
        name = f"{heads[0]} heads on {heads[1]}"
        yield KernelCheck(f"decode, {name}", _DECODE, _Batch(((1, 17), (1, 33)), heads=heads).compare)
        yield KernelCheck(f"prefill, {name}", _PREFILL, _Batch(((11, 12), (1, 3)), heads=heads).compare)
    for head_dim in (80, 96, 128, 256):
        yield KernelCheck(f"decode, head_dim {head_dim}", _DECODE, _Batch(((1, 17),), head_dim=head_dim).compare)
        yield KernelCheck(f"prefill, head_dim {head_dim}", _PREFILL, _Batch(((4, 20),), head_dim=head_dim).compare)
    for name, variant in _VARIANTS.items():
        mixed = _Batch(((1, 1), (5, 5), (4, 100)), variant=variant)
        yield KernelCheck(f"prefill, {name}", _PREFILL, mixed.compare)
        for splits in (1, 8):
            decode = _Batch(((1, 1), (1, 100), (0, 3)), variant=variant, splits=splits)
            yield KernelCheck(f"decode in {splits} parts, {name}", _SPLIT, decode.compare)
    for name, kernels, lengths in (("decode", _DECODE, ((1, 33), (1, 1))), ("prefill", _PREFILL, ((3, 20),))):
        fp8 = _Batch(lengths, dtype=torch.float16, scales=(0.5, 0.25))
        yield KernelCheck(f"{name}, cache in fp8", kernels, fp8.compare)
    yield KernelCheck("decode, padding", _DECODE, _padding(lambda batch: DecodeAttention(batch, 16)))
    yield KernelCheck("prefill, padding", _PREFILL, _padding(PrefillAttention))
    quick: dict[str, Any] = {"variant": _VARIANTS["all variants"], "head_dim": 80, "block_size": 7}
    decode = _Batch(((1, 1), (1, 40), (0, 3)), splits=2, **quick)
    yield KernelCheck("decode in 2 parts, odd shapes", _SPLIT, decode.compare, is_quick=True)
    mixed = _Batch(((1, 8), (0, 3), (5, 30)), **quick)
    yield KernelCheck("prefill, odd shapes", _PREFILL, mixed.compare, is_quick=True)


ATTENTION: Final = tuple(_checks())
