"""Numbers of sequences for which a step is captured; smaller batches are padded up to the next one."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

_SMALL: Final = (1, 2, 4)
_STEP: Final = 8
_WIDE_FROM: Final = 256
_WIDE_STEP: Final = 16
MAX_CAPTURED: Final = 512
"""Larger steps compute for so long that launching them costs little."""


def batch_buckets(max_num_seqs: int) -> tuple[int, ...]:
    """Ascending, as vLLM has them: 1, 2, 4, every 8th up to 256, then every 16th, and the largest batch there is."""
    most = min(max_num_seqs, MAX_CAPTURED)
    sizes = [*_SMALL, *range(_STEP, _WIDE_FROM, _STEP), *range(_WIDE_FROM, MAX_CAPTURED + 1, _WIDE_STEP)]
    return tuple(sorted({size for size in sizes if size < most} | {most}))


def bucket_of(num_seqs: int, buckets: Sequence[int]) -> int | None:
    """The least that holds so many sequences; None if none does."""
    place = bisect_left(buckets, num_seqs)
    return buckets[place] if place < len(buckets) else None
