"""Among how many programs is split what one would compute alone: a sequence's keys, or the depth of a linear layer."""

from typing import Final

MAX_SPLITS: Final = 64


def num_splits(*, num_programs: int, wanted: int, most: float) -> int:
    """The largest power of 2 (so that few kernels are compiled) that makes no more programs than are wanted; or 1.

    Args:
        num_programs: That there are without splitting.
        wanted: That keep the GPU busy: while some wait for memory, others compute.
        most: Above it a share is not worth its start and its merging.
    """
    splits = 1
    while splits * 2 * num_programs <= wanted and splits * 2 <= min(MAX_SPLITS, most):
        splits *= 2
    return splits
