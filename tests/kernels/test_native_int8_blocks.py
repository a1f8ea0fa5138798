"""Blocks times activations in int8, rounded block by block: the reference's bits, whatever is computed beside."""

import pytest
import torch
from torch import Tensor

from kernels.arguments import BlockMatrix, Int8Blocks
from kernels.ops import REFERENCE, Ops
from kernels.quantize import to_int8_blocks
from kernels.reference_linear import dequantize
from tests.kernels.test_native_linear import ROWS, SHAPES, random_blocks, threads

FORMATS = ["Q4_0", "Q4_1", "Q8_0"]


def with_outliers(rows: int, columns: int) -> Tensor:
    x = torch.randn(rows, columns)
    x[:, 3] *= 80
    return x


def assert_same(ops: Ops, found: Tensor, expected: Tensor) -> None:
    """Bit for bit where multiply-adds are fused, as all but the plainest processors do."""
    if ops.name == "native portable":
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4, equal_nan=True)
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_it_gives_the_references_bits(ops: Ops, name: str, shape: tuple[int, int], biased: bool) -> None:
    torch.manual_seed(0)
    matrix, x = Int8Blocks(random_blocks(name, *shape)), with_outliers(37, shape[1])
    bias = torch.randn(shape[0]) if biased else None
    expected = REFERENCE.pack_linear([matrix], bias)(x)
    linear = ops.pack_linear([matrix], bias)
    for num_tokens in (0, *ROWS[:-1], 37):
        assert_same(ops, linear(x[:num_tokens]), expected[:num_tokens])


@pytest.mark.parametrize("name", FORMATS)
def test_the_largest_sums_are_exact(ops: Ops, name: str) -> None:
    """Every quant the largest or the least, and every step too: as far as 16 bits must reach."""
    filled = {"Q4_0": [0xFF, 0x00], "Q4_1": [0xFF, 0x00], "Q8_0": [0x7F, 0x80]}[name]
    for quant in filled:
        blocks = random_blocks(name, 20, 1536).blocks
        blocks[..., {"Q4_0": 2, "Q4_1": 4, "Q8_0": 2}[name] :] = quant
        matrix = Int8Blocks(BlockMatrix(name, blocks))
        x = torch.tensor([[1.0], [-1.0], [3.0]]).repeat(1, 1536)
        found = ops.pack_linear([matrix], None)(x)
        assert_same(ops, found, REFERENCE.pack_linear([matrix], None)(x))
        torch.testing.assert_close(found, x @ dequantize(matrix).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_a_rows_bits_depend_neither_on_the_batch_nor_on_the_threads(ops: Ops, name: str) -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        linear = ops.pack_linear([Int8Blocks(random_blocks(name, *shape))], torch.randn(shape[0]))
        x = with_outliers(130, shape[1])
        with threads(ops, 3):
            together = linear(x)
        for num_threads in (1, 2, 3):
            with threads(ops, num_threads):
                for rows in ROWS:
                    for first in (0, 3, 66):
                        found = linear(x[first : first + rows])
                        assert torch.equal(found, together[first : first + rows]), (shape, num_threads, rows, first)


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_without_numbers_stays_alone(ops: Ops, name: str) -> None:
    torch.manual_seed(0)
    matrix, x = Int8Blocks(random_blocks(name, 33, 128)), torch.randn(9, 128)
    linear = ops.pack_linear([matrix], None)
    x[6] = 0.0
    clean = linear(x)
    assert torch.equal(clean[6], torch.zeros(33))
    x[2, 70], x[4, 3] = float("nan"), float("-inf")
    others = [0, 1, 3, 5, 6, 7, 8]
    found = linear(x)
    assert found[[2, 4]].isnan().all()
    assert torch.equal(found[others], clean[others])
    assert REFERENCE.pack_linear([matrix], None)(x)[[2, 4]].isnan().all()


def test_it_is_near_the_product_in_fp32(ops: Ops) -> None:
    torch.manual_seed(0)
    weights, x = torch.randn(192, 576), torch.randn(37, 576)
    x[:, 100] *= 30
    matrix = to_int8_blocks(weights)
    exact = x @ dequantize(matrix).T
    found = ops.pack_linear([matrix], None)(x)
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.015


def test_an_embedding_gives_the_stored_numbers(ops: Ops) -> None:
    torch.manual_seed(0)
    matrix, token_ids = Int8Blocks(random_blocks("Q8_0", 50, 64)), torch.tensor([49, 0, 16, 15, 49])
    embedding, x = ops.pack_embedding(matrix), torch.randn(3, 64)
    assert torch.equal(embedding(token_ids), dequantize(matrix)[token_ids])
    assert torch.equal(embedding.head()(x), ops.pack_linear([matrix], None)(x))


def test_formats_stand_side_by_side(ops: Ops) -> None:
    torch.manual_seed(0)
    blocks = [random_blocks(name, 20, 64) for name in ("Q4_1", "Q4_1", "Q8_0")]
    matrices, x = [*map(Int8Blocks, blocks), blocks[0]], torch.randn(5, 64)
    found = ops.pack_linear(matrices, None)(x).split(20, dim=1)
    for part, matrix in zip(found, matrices, strict=True):
        assert torch.equal(part, ops.pack_linear([matrix], None)(x))
    assert not torch.equal(found[0], found[3])
