"""Paged attention on a CPU: gather each sequence's keys and values, then PyTorch's flash attention on them.

Sequences that compute one token are taken together in groups of like length; the others one by one. The index arrays,
masks and workspaces are made once per step and used by every layer, or by every layer of one window.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

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


_UNBOUNDED: Final = 1 << 30
"""More tokens than any context has."""


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

    def __init__(self, batch: PagedBatch) -> None:
        self._batch = batch
        self._parts: dict[int | None, list[_Part]] = {}
        self._workspace: tuple[Tensor, Tensor] | None = None

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
    ) -> Tensor:
        assert sinks is None, "see Ops.has_sinks"
        if window not in self._parts:
            self._parts[window] = _cut(self._batch, window or _UNBOUNDED)
        score = partial(_attend, scale=scale, soft_cap=soft_cap)
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        for part in self._parts[window]:
            keys, values = self._gather(part, key_cache, value_cache)
            attend = _attend_one_token_each if part.num_seqs > 1 else _attend_one_sequence
            output[part.rows] = attend(query[part.rows], keys, values, part, score)
        return output

    def _gather(self, part: _Part, key_cache: Tensor, value_cache: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a part, [num_seqs, num_kv_heads, max_context, head_dim]."""
        num_kv_heads, head_dim = key_cache.shape[2:]
        row = num_kv_heads * head_dim
        if self._workspace is None or len(self._workspace[0]) < len(part.slots):
            # One for all layers: fresh memory for each would cost its page faults, more than the copy itself.
            most = max(len(part.slots) for parts in self._parts.values() for part in parts)
            self._workspace = key_cache.new_empty(most, row), key_cache.new_empty(most, row)
        gathered = (
            torch.index_select(cache.view(-1, row), 0, part.slots, out=space[: len(part.slots)])
            .view(part.num_seqs, -1, num_kv_heads, head_dim)
            .transpose(1, 2)
            for cache, space in zip((key_cache, value_cache), self._workspace, strict=True)
        )
        keys, values = gathered
        return keys, values


_Attend = Callable[..., Tensor]
"""`_attend` with a layer's scale and soft cap."""


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    attn_mask: Tensor | None,
    is_causal: bool = False,
    scale: float,
    soft_cap: float | None,
) -> Tensor:
    """As PyTorch's attention, which knows no soft cap."""
    if soft_cap is None:
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=attn_mask, is_causal=is_causal, scale=scale
        )
    scores = soft_cap * torch.tanh((query.float() @ keys.float().transpose(-1, -2)) * (scale / soft_cap))
    if is_causal:
        attn_mask = torch.full(scores.shape[-2:], float("-inf")).triu_(1)
    if attn_mask is not None:
        scores += attn_mask
    return (scores.softmax(-1) @ values.float()).to(query.dtype)


def _attend_one_token_each(query: Tensor, keys: Tensor, values: Tensor, part: _Part, attend: _Attend) -> Tensor:
    """Decode: the query heads that share a key head stand where other models have several tokens."""
    num_seqs, num_kv_heads, max_context, head_dim = keys.shape
    heads = query.reshape(num_seqs, num_kv_heads, -1, head_dim)
    mask = None if part.mask is None else part.mask.expand(num_seqs, 1, heads.shape[2], max_context)
    return attend(heads, keys, values, attn_mask=mask).reshape(query.shape)


def _attend_one_sequence(query: Tensor, keys: Tensor, values: Tensor, part: _Part, attend: _Attend) -> Tensor:
    """Prefill: the key heads are the batch; the query heads of each see the same keys without a copy of them."""
    num_tokens, num_heads, head_dim = query.shape
    _, num_kv_heads, context_len, _ = keys.shape
    group = num_heads // num_kv_heads
    heads = query.view(num_tokens, num_kv_heads, group, head_dim).permute(1, 2, 0, 3)
    shape = (num_kv_heads, group, context_len, head_dim)
    attended = attend(
        heads,
        keys.transpose(0, 1).expand(shape),
        values.transpose(0, 1).expand(shape),
        attn_mask=part.mask,
        is_causal=part.is_causal,
    )
    return attended.permute(2, 0, 1, 3).reshape(query.shape)


def plan_attention(batch: PagedBatch) -> PagedAttention:
    """Prepare a step's attention."""
    return _GatheredAttention(batch)


def _cut(batch: PagedBatch, window: int) -> list[_Part]:
    """The parts of a step, for layers of one window."""
    starts = batch.query_start.numpy()
    contexts = batch.context_lens.numpy()
    tables = batch.block_tables.numpy()
    lengths = np.diff(starts)
    decoding = np.flatnonzero(lengths == 1)
    longest_first = decoding[np.argsort(-contexts[decoding], kind="stable")]
    parts = [
        _decode_part(group, starts, contexts, tables, batch.block_size, window)
        for group in _groups(longest_first.tolist(), np.minimum(contexts, window))
    ]
    parts += [
        _prefill_part(sequence, starts, contexts, tables, batch.block_size, window)
        for sequence in np.flatnonzero(lengths > 1).tolist()
    ]
    return parts


def _groups(longest_first: Sequence[int], contexts: NDArray[np.int64]) -> Iterator[list[int]]:
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
    window: int,
) -> _Part:
    sequences = np.array(group)
    lengths = np.minimum(contexts[sequences], window)
    slots = _slots(tables[sequences], contexts[sequences] - lengths, int(lengths[0]), block_size)
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
    window: int,
) -> _Part:
    start, stop, context_len = int(starts[sequence]), int(starts[sequence + 1]), int(contexts[sequence])
    num_tokens = stop - start
    first_seen = max(0, context_len - num_tokens - window + 1)
    num_seen = context_len - first_seen
    is_whole = num_tokens == context_len <= window
    mask = None
    if not is_whole:
        past = num_seen - num_tokens
        mask = torch.full((num_tokens, num_seen), float("-inf")).triu_(past + 1)
        if context_len > window:
            mask += torch.full((num_tokens, num_seen), float("-inf")).tril_(past - window)
    slots = _slots(tables[sequence : sequence + 1], np.array([first_seen]), num_seen, block_size)
    return _Part(slice(start, stop), 1, torch.from_numpy(slots.reshape(-1)), mask, is_causal=is_whole)


def _slots(
    tables: NDArray[np.int32], first: NDArray[np.integer[Any]], count: int, block_size: int
) -> NDArray[np.int64]:
    """Cache slots of so many tokens of some sequences from `first` [num_seqs] on, [num_seqs, count].

    Past the end of a table its last block is repeated.
    """
    position = first[:, None] + np.arange(count)
    block = np.minimum(position // block_size, tables.shape[1] - 1)
    return np.take_along_axis(tables, block, 1).astype(np.int64) * block_size + position % block_size
