"""Paged attention of a step: which kernel computes it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.arguments import PagedAttention, PagedBatch
from kernels.triton.attention_arguments import Variant
from kernels.triton.decode_attention import DecodeAttention
from kernels.triton.prefill_attention import PrefillAttention


@dataclass(frozen=True, slots=True)
class _PagedAttention:
    kernel: PrefillAttention | DecodeAttention

    def __call__(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        *,
        scale: float,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
        alibi_slopes: Tensor | None = None,
        key_scale: float = 1.0,
        value_scale: float = 1.0,
    ) -> Tensor:
        """As the reference; caches in fp8 (e4m3) as well."""
        is_fp8 = key_cache.dtype == torch.float8_e4m3fn
        if is_fp8:
            key_cache, value_cache = key_cache.view(torch.uint8), value_cache.view(torch.uint8)
        variant = Variant(scale, window, soft_cap, sinks, alibi_slopes, key_scale, value_scale, is_fp8)
        return self.kernel.run(query, key_cache, value_cache, variant)


def plan_attention(batch: PagedBatch) -> PagedAttention:
    """Prepare a step's attention from shapes alone, so that it can be captured."""
    if batch.is_decode:
        return _PagedAttention(DecodeAttention(batch, batch.block_tables.shape[1] * batch.block_size))
    return _PagedAttention(PrefillAttention(batch))
