"""Among how many programs the keys of one sequence are split."""

from typing import Final

MAX_SPLITS: Final = 64
PROGRAMS_PER_MULTIPROCESSOR: Final = 4
"""Enough that others compute while one waits for memory."""
MIN_TOKENS: Final = 64
"""Of a share: less is not worth its start and its merging."""


def num_splits(*, num_programs: int, max_context: int, num_multiprocessors: int) -> int:
    """A power of 2, so that few kernels are compiled; 1 once there is work for the whole GPU without splitting.

    Args:
        num_programs: That there are without splitting.
        max_context: Tokens of the longest context.
        num_multiprocessors: Of the GPU.
    """
    wanted = num_multiprocessors * PROGRAMS_PER_MULTIPROCESSOR / num_programs
    most = min(MAX_SPLITS, max_context / MIN_TOKENS)
    splits = 1
    while splits < wanted and splits * 2 <= most:
        splits *= 2
    return splits
