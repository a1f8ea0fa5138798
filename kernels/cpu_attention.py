"""Paged attention on a CPU: gather each sequence's keys and values, then PyTorch's flash attention on them.

Sequences that compute one token are taken together in groups of like length; the others one by one. The index arrays,
masks and workspaces are made once per step and used by every layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kernels.arguments import PagedAttention, PagedBatch

MAX_GROUP_TOKENS: Final = 8192
"""Keys of one group: 32 sequences of 1,024 tokens take 5.0 ms a layer in groups of 4,096 tokens and 7.0 ms all at once,
for lack of cache; 32 of 160 tokens take 0.8 ms at once and 1.7 ms in groups of 640 (Zen 5, 2 threads)."""

MAX_GROUP_PADDING: Final = 512
"""Padded keys of one group: about as long to attend to (0.1 us each) as one more group takes to start (50 us)."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Sequences that are attended to by one call.

    Attributes:
        rows: Of the packed tokens.
        num_seqs: Sequences; with more than one, each has one token.
        slots: [num_seqs * max_context] int64, the cache slots to gather.
        mask: Added to the scores, broadcastable to [num_seqs, 1, num_queries, max_context]; None if nothing is masked.
        is_causal: The tokens are their sequence's whole context.
    """

    rows: Tensor | slice
    num_seqs: int
    slots: Tensor
    mask: Tensor | None
    is_causal: bool = False


class _GatheredAttention:
    """Runs the parts one after another."""

    def __init__(self, parts: list[_Part]) -> None:
        self._parts = parts
        self._max_slots = max((len(part.slots) for part in parts), default=0)
        self._workspace: tuple[Tensor, Tensor] | None = None

    def __call__(self, query: Tensor, key_cache: Tensor, value_cache: Tensor, *, scale: float) -> Tensor:
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        for part in self._parts:
            keys, values = self._gather(part, key_cache, value_cache)
            attend = _attend_one_token_each if part.num_seqs > 1 else _attend_one_sequence
            output[part.rows] = attend(query[part.rows], keys, values, part, scale)
        return output

    def _gather(self, part: _Part, key_cache: Tensor, value_cache: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a part, [num_seqs, num_kv_heads, max_context, head_dim]."""
        num_kv_heads, head_dim = key_cache.shape[2:]
        row = num_kv_heads * head_dim
        if self._workspace is None:
            # One for all layers: fresh memory for each would cost its page faults, more than the copy itself.
            self._workspace = key_cache.new_empty(self._max_slots, row), key_cache.new_empty(self._max_slots, row)
        gathered = (
            torch.index_select(cache.view(-1, row), 0, part.slots, out=space[: len(part.slots)])
            .view(part.num_seqs, -1, num_kv_heads, head_dim)
            .transpose(1, 2)
            for cache, space in zip((key_cache, value_cache), self._workspace, strict=True)
        )
        keys, values = gathered
        return keys, values


def _attend_one_token_each(query: Tensor, keys: Tensor, values: Tensor, part: _Part, scale: float) -> Tensor:
    """Decode: the query heads that share a key head stand where other models have several tokens."""
    num_seqs, num_kv_heads, max_context, head_dim = keys.shape
    heads = query.reshape(num_seqs, num_kv_heads, -1, head_dim)
    mask = None if part.mask is None else part.mask.expand(num_seqs, 1, heads.shape[2], max_context)
    return functional.scaled_dot_product_attention(heads, keys, values, attn_mask=mask, scale=scale).reshape(
        query.shape
    )


def _attend_one_sequence(query: Tensor, keys: Tensor, values: Tensor, part: _Part, scale: float) -> Tensor:
    """Prefill: the key heads are the batch; the query heads of each see the same keys without a copy of them."""
    num_tokens, num_heads, head_dim = query.shape
    _, num_kv_heads, context_len, _ = keys.shape
    group = num_heads // num_kv_heads
    heads = query.view(num_tokens, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)
    shape = (num_kv_heads, group, context_len, head_dim)
    attended = functional.scaled_dot_product_attention(
        heads,
        keys.transpose(0, 1).expand(shape),
        values.transpose(0, 1).expand(shape),
        attn_mask=part.mask,
        is_causal=part.is_causal,
        scale=scale,
    )
    return attended.permute(2, 0, 1, 3).reshape(query.shape)


def plan_attention(batch: PagedBatch) -> PagedAttention:
    """Prepare a step's attention."""
    starts = batch.query_start.numpy()
    contexts = batch.context_lens.numpy()
    tables = batch.block_tables.numpy()
    lengths = np.diff(starts)
    decoding = np.flatnonzero(lengths == 1)
    longest_first = decoding[np.argsort(-contexts[decoding], kind="stable")]
    parts = [
        _decode_part(group, starts, contexts, tables, batch.block_size)
        for group in _groups(longest_first.tolist(), contexts)
    ]
    parts += [
        _prefill_part(sequence, starts, contexts, tables, batch.block_size)
        for sequence in np.flatnonzero(lengths > 1).tolist()
    ]
    return _GatheredAttention(parts)


def _groups(longest_first: Sequence[int], contexts: NDArray[np.int32]) -> Iterator[list[int]]:
    """Cut sequences, longest first, where padding or working set grow too large."""
    group: list[int] = []
    padding = 0
    for sequence in longest_first:
        longest = int(contexts[group[0]]) if group else 0
        waste = longest - int(contexts[sequence])
        if group and (padding + waste > MAX_GROUP_PADDING or (len(group) + 1) * longest > MAX_GROUP_TOKENS):
            yield group
            group, padding, waste = [], 0, 0
        group.append(sequence)
        padding += waste
    if group:
        yield group


def _decode_part(
    group: list[int],
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    tables: NDArray[np.int32],
    block_size: int,
) -> _Part:
    sequences = np.array(group)
    lengths = contexts[sequences]
    slots = _slots(tables[sequences], int(lengths[0]), block_size)
    absent = np.arange(lengths[0]) >= lengths[:, None]
    mask = None
    if absent.any():
        # Padding reads the sequence's own first token, not what lies in unused slots: 0 * NaN is NaN.
        slots = np.where(absent, slots[:, :1], slots)
        mask = torch.zeros(absent.shape).masked_fill_(torch.from_numpy(absent), float("-inf"))[:, None, None, :]
    rows = starts[sequences].astype(np.int64)
    together = bool((np.diff(rows) == 1).all())
    return _Part(
        rows=slice(int(rows[0]), int(rows[-1]) + 1) if together else torch.from_numpy(rows),
        num_seqs=len(group),
        slots=torch.from_numpy(slots.reshape(-1)),
        mask=mask,
    )


def _prefill_part(
    sequence: int,
    starts: NDArray[np.int32],
    contexts: NDArray[np.int32],
    tables: NDArray[np.int32],
    block_size: int,
) -> _Part:
    start, stop, context_len = int(starts[sequence]), int(starts[sequence + 1]), int(contexts[sequence])
    num_tokens = stop - start
    is_whole = num_tokens == context_len
    mask = None
    if not is_whole:
        past = context_len - num_tokens
        mask = torch.full((num_tokens, context_len), float("-inf")).triu_(past + 1)
    slots = _slots(tables[sequence : sequence + 1], context_len, block_size)
    return _Part(slice(start, stop), 1, torch.from_numpy(slots.reshape(-1)), mask, is_causal=is_whole)


def _slots(tables: NDArray[np.int32], context_len: int, block_size: int) -> NDArray[np.int64]:
    """Cache slots of the first tokens of some sequences, [num_seqs, context_len]."""
    position = np.arange(context_len)
    return tables[:, position // block_size].astype(np.int64) * block_size + position % block_size
