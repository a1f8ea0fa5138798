"""What a machine can do at best, measured with the native library's own threads and vectors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Final

import torch

from kernels.native_library import address, open_library

_READ_BYTES: Final = 256 << 20
"""More than the caches of most machines hold; where they hold more, what is measured is their speed."""
_NUM_WINDOWS: Final = 8
"""Parts of it that are read one after another and timed each: short ones find a moment when all cores are free."""
_NUM_PIECES: Final = 64


@dataclass(frozen=True, slots=True)
class Ceilings:
    """No op on this machine can be faster, but for numbers in cache and for what a matrix unit multiplies.

    Attributes:
        read_bytes_per_s: From memory, all threads.
        flops_per_s: fp32 operations per second by multiply-adds of vectors, two each, all threads.
    """

    read_bytes_per_s: float
    flops_per_s: float


def measure(path: Path, *, num_bytes: int = _READ_BYTES, seconds: float = 1.0) -> Ceilings:
    """Measure with as many threads as PyTorch has; the best moment counts.

    Args:
        path: Of the library.
        num_bytes: To read, over and over; a multiple of 32.
        seconds: For each of both.

    Raises:
        OSError: the library cannot be loaded.
    """
    library = open_library(path)
    library.set_num_threads(torch.get_num_threads())
    numbers = torch.ones(num_bytes // 4)
    windows = cycle(numbers.chunk(_NUM_WINDOWS))
    sums = torch.empty(max(_NUM_PIECES, library.num_read_pieces(len(numbers))))

    def read() -> int:
        window = next(windows)
        library.read_all(address(window), len(window), address(sums))
        return window.nbytes

    def compute() -> int:
        return 2 * int(library.multiply_add_all(_NUM_PIECES, address(sums)))

    return Ceilings(_best_rate(read, seconds), _best_rate(compute, seconds))


def _best_rate(work: Callable[[], int], seconds: float) -> float:
    """Units of work per second; the first time does not count."""
    work()
    best = 0.0
    ends_at = time.perf_counter() + seconds
    while (started := time.perf_counter()) < ends_at:
        amount = work()
        best = max(best, amount / (time.perf_counter() - started))
    return best
