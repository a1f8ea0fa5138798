"""Int8 times int8: the reference's bits, by every way there is to compute them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kernels.native_library import open_library
from kernels.ops import REFERENCE, Ops
from kernels.quantize import to_rows
from tests.kernels.test_native_linear import ROWS, threads

SHAPES = [(192, 576), (50, 64), (17, 320), (1, 32), (33, 1536), (100, 70)]


def each_way(library_path: Path) -> Iterator[int]:
    """Chooses the library's ways one after another; the best one comes last and stays."""
    library = open_library(library_path)
    for way in range(library.num_int8_ways()):
        library.choose_int8_way(way)
        yield way


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_every_way_gives_the_references_bits(
    ops: Ops, library_path: Path, shape: tuple[int, int], biased: bool
) -> None:
    torch.manual_seed(0)
    matrix, x = to_rows(torch.randn(shape)), torch.randn(37, shape[1])
    x[:, 3] *= 80  # a column of outliers
    bias = torch.randn(shape[0]) if biased else None
    expected = REFERENCE.pack_linear([matrix], bias)(x)
    linear = ops.pack_linear([matrix], bias)
    for way in each_way(library_path):
        for num_tokens in (0, *ROWS[:-1], 37):
            assert torch.equal(linear(x[:num_tokens]), expected[:num_tokens]), (way, num_tokens)


def test_the_largest_sums_are_exact(ops: Ops, library_path: Path) -> None:
    """Rows of one sign everywhere, after the rotation and so before it only in one column of each block."""
    weights, x = torch.zeros(20, 1536), torch.zeros(3, 1536)
    weights[:, ::64], x[:, ::64] = 1.0, torch.tensor([[1.0], [-1.0], [3.0]])
    matrix = to_rows(weights)
    assert bool((matrix.numbers == 127).all())
    expected = REFERENCE.pack_linear([matrix], None)(x)
    linear = ops.pack_linear([matrix], None)
    for way in each_way(library_path):
        assert torch.equal(linear(x), expected), way
    torch.testing.assert_close(expected, x @ weights.T)


def test_a_rows_bits_depend_neither_on_the_batch_nor_on_the_threads(ops: Ops) -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        linear = ops.pack_linear([to_rows(torch.randn(shape))], torch.randn(shape[0]))
        x = torch.randn(130, shape[1])
        with threads(ops, 3):
            together = linear(x)
        for num_threads in (1, 2, 3):
            with threads(ops, num_threads):
                for rows in ROWS:
                    for first in (0, 3, 66):
                        found = linear(x[first : first + rows])
                        assert torch.equal(found, together[first : first + rows]), (shape, num_threads, rows, first)


def test_it_is_near_the_product_in_fp32(ops: Ops) -> None:
    torch.manual_seed(0)
    weights, x = torch.randn(192, 576), torch.randn(37, 576)
    x[:, 100] *= 30
    exact = x @ weights.T
    found = ops.pack_linear([to_rows(weights)], None)(x)
    assert float((found - exact).norm() / exact.norm()) < 0.015


def test_an_embedding_gives_its_rows_rotated_back(ops: Ops) -> None:
    torch.manual_seed(0)
    matrix, token_ids = to_rows(torch.randn(50, 70)), torch.tensor([49, 0, 16, 15, 49])
    embedding, x = ops.pack_embedding(matrix), torch.randn(3, 70)
    assert torch.equal(embedding(token_ids), REFERENCE.pack_embedding(matrix)(token_ids))
    assert torch.equal(embedding.head()(x), ops.pack_linear([matrix], None)(x))


def test_it_stands_beside_matrices_of_fp32(ops: Ops) -> None:
    torch.manual_seed(0)
    exact = torch.randn(20, 64)
    both = ops.pack_linear([to_rows(exact), exact, to_rows(exact)], torch.zeros(60))(x := torch.randn(5, 64))
    assert torch.equal(both[:, :20], both[:, 40:])
    torch.testing.assert_close(both[:, 20:40], x @ exact.T)


def test_a_row_without_numbers_stays_alone(ops: Ops, library_path: Path) -> None:
    torch.manual_seed(0)
    linear, x = ops.pack_linear([to_rows(torch.randn(33, 128))], None), torch.randn(9, 128)
    x[6] = 0.0
    clean = linear(x)
    assert torch.equal(clean[6], torch.zeros(33))
    x[2, 70], x[4, 3] = float("nan"), float("-inf")
    others = [0, 1, 3, 5, 6, 7, 8]
    for way in each_way(library_path):
        found = linear(x)
        assert found[[2, 4]].isnan().all(), way
        assert torch.equal(found[others], clean[others]), way
