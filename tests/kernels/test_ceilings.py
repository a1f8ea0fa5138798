from pathlib import Path

import pytest
import torch

from kernels.ceilings import measure
from kernels.native_library import address, open_library


@pytest.mark.parametrize("num_floats", [1, 127, 65_536, 65_536 * 3 + 131])
def test_every_number_is_read_once(library_path: Path, num_floats: int) -> None:
    library = open_library(library_path)
    numbers = torch.randint(-8, 9, (num_floats,)).float()
    sums = torch.full((library.num_read_pieces(num_floats),), float("nan"))
    library.read_all(address(numbers), num_floats, address(sums))
    assert sums.sum() == numbers.sum()


def test_the_multiply_adds_are_made(library_path: Path) -> None:
    sums = torch.zeros(3)
    count = open_library(library_path).multiply_add_all(3, address(sums))
    assert count % (3 * 16) == 0
    # x / 2 + 1 again and again is 2, in each lane of each sum.
    sums_of_a_piece = count // (3 * (1 << 14))
    assert sums.tolist() == [2.0 * sums_of_a_piece] * 3


def test_ceilings_are_of_a_real_machine(library_path: Path) -> None:
    found = measure(library_path, num_bytes=8 << 20, seconds=0.2)
    assert 1e8 < found.read_bytes_per_s < 1e13
    assert 1e8 < found.flops_per_s < 1e15
