"""What a machine can do at best, measured with the native library's own threads and vectors."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from kernels.native_library import address, open_library

_READ_BYTES: Final = 256 << 20
"""More than the caches of most machines hold; where they hold more, what is measured is their speed."""
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


def measure(path: Path, *, num_bytes: int = _READ_BYTES, repeats: int = 40) -> Ceilings:
    """Measure with as many threads as PyTorch has (a second); the best of some repeats.

    Args:
        path: Of the library.
        num_bytes: To read in a repeat, a multiple of 4.
        repeats: Of each measurement.

    Raises:
        OSError: the library cannot be loaded.
    """
    library = open_library(path)
    library.set_num_threads(torch.get_num_threads())
    numbers = torch.ones(num_bytes // 4)
    sums = torch.empty(max(_NUM_PIECES, library.num_read_pieces(len(numbers))))

    def read() -> int:
        library.read_all(address(numbers), len(numbers), address(sums))
        return num_bytes

    def compute() -> int:
        return 2 * int(library.multiply_add_all(_NUM_PIECES, address(sums)))

    return Ceilings(_best_rate(read, repeats), _best_rate(compute, repeats))


def _best_rate(work: Callable[[], int], repeats: int) -> float:
    """Units of work per second; the first time does not count."""
    work()
    best = 0.0
    for _ in range(repeats):
        started = time.perf_counter()
        amount = work()
        best = max(best, amount / (time.perf_counter() - started))
    return best
