"""Every format is the same sum over the same numbers, in the same order, whatever is computed beside it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from kernels.arguments import BlockMatrix, Matrix, PagedBatch
from kernels.ops import REFERENCE, Ops
from kernels.reference_linear import dequantize

ROWS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 31, 64]
SHAPES = [(192, 576), (50, 64), (17, 320), (1, 32), (33, 1536)]


def random_blocks(name: str, out_features: int, in_features: int) -> BlockMatrix:
    block_bytes = {"Q4_0": 18, "Q4_1": 20, "Q4_Z": 20, "Q8_0": 34}[name]
    blocks = torch.randint(0, 256, (out_features, in_features // 32, block_bytes), dtype=torch.uint8)
    scales = torch.randn(out_features, in_features // 32, 2).mul(0.01).half()
    for place in range(2 if name == "Q4_1" else 1):
        blocks[..., 2 * place : 2 * place + 2] = scales[..., place, None].contiguous().view(torch.uint8)
    if name == "Q4_Z":
        zeros = torch.randint(0, 17, (out_features, in_features // 32, 1)).half()
        blocks[..., 2:4] = zeros.view(torch.uint8)
    return BlockMatrix(name, blocks)


MATRICES: dict[str, Callable[[int, int], Matrix]] = {
    "fp32": torch.randn,
    "fp16": lambda n, k: torch.randn(n, k).half(),
    "bf16": lambda n, k: torch.randn(n, k).bfloat16(),
    "Q4_0": lambda n, k: random_blocks("Q4_0", n, k),
    "Q4_1": lambda n, k: random_blocks("Q4_1", n, k),
    "Q4_Z": lambda n, k: random_blocks("Q4_Z", n, k),
    "Q8_0": lambda n, k: random_blocks("Q8_0", n, k),
}


@pytest.fixture(params=MATRICES.values(), ids=MATRICES)
def random_matrix(request: pytest.FixtureRequest) -> Callable[[int, int], Matrix]:
    torch.manual_seed(0)
    return request.param


@contextmanager
def threads(ops: Ops, count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    nobody = PagedBatch(torch.zeros(1).int(), torch.zeros(0).int(), torch.zeros(0, 1).int(), 16)
    torch.set_num_threads(count)
    ops.plan_attention(nobody)  # takes the number over
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_the_product_in_fp32(
    ops: Ops, random_matrix: Callable[[int, int], Matrix], shape: tuple[int, int], biased: bool
) -> None:
    matrix, x = random_matrix(*shape), torch.randn(37, shape[1])
    bias = torch.randn(shape[0]) if biased else None
    exact = torch.nn.functional.linear(x.double(), dequantize(matrix).double(), None if bias is None else bias.double())
    linear = ops.pack_linear([matrix], bias)
    for num_tokens in (0, 1, 5, 37):
        found = linear(x[:num_tokens])
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact[:num_tokens], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_rows_bits_depend_neither_on_the_batch_nor_on_the_threads(
    ops: Ops, random_matrix: Callable[[int, int], Matrix], shape: tuple[int, int]
) -> None:
    linear, x = ops.pack_linear([random_matrix(*shape)], torch.randn(shape[0])), torch.randn(130, shape[1])
    with threads(ops, 3):
        together = linear(x)
    for num_threads in (1, 2, 3):
        with threads(ops, num_threads):
            for rows in ROWS:
                for first in (0, 3, 66):
                    found = linear(x[first : first + rows])
                    assert torch.equal(found, together[first : first + rows]), (num_threads, rows, first)


@pytest.mark.parametrize("in_features", [192, 576, 1536])
def test_no_sum_is_less_exact_than_fp32(
    ops: Ops, random_matrix: Callable[[int, int], Matrix], in_features: int
) -> None:
    matrix, x = random_matrix(192, in_features), torch.randn(37, in_features)
    exact = x.double() @ dequantize(matrix).double().T
    in_order = torch.zeros(37, 192)
    for k in range(in_features):
        in_order = torch.addcmul(in_order, x[:, k, None], dequantize(matrix)[:, k].float())

    def error(found: Tensor) -> float:
        return (found - exact).square().mean().sqrt().item()

    assert error(ops.pack_linear([matrix], None)(x)) <= 1.1 * error(in_order)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_narrow_numbers_give_the_bits_of_the_same_numbers_in_fp32(ops: Ops, name: str) -> None:
    if ops.name == "native amx":
        pytest.skip("the matrix unit adds in an order of its own")
    matrix = MATRICES[name](192, 576)
    assert isinstance(matrix, Tensor)
    packed, wide = ops.pack_linear([matrix], None), ops.pack_linear([dequantize(matrix).float()], None)
    for rows in ROWS:
        x = torch.randn(rows, 576)
        assert torch.equal(packed(x), wide(x))


def test_subnormal_numbers_sum_alike_in_every_batch(ops: Ops, random_matrix: Callable[[int, int], Matrix]) -> None:
    linear, x = ops.pack_linear([random_matrix(192, 96)], None), torch.randn(37, 96) * 1e-37
    together = linear(x)
    for rows in ROWS:
        assert torch.equal(linear(x[:rows]), together[:rows])


def test_matrices_of_several_formats_stand_side_by_side(ops: Ops) -> None:
    torch.manual_seed(0)
    matrices = [random_blocks("Q4_1", 20, 64), torch.randn(5, 64), torch.randn(12, 64), random_blocks("Q8_0", 3, 64)]
    bias, x = torch.randn(40), torch.randn(9, 64)
    found = ops.pack_linear(matrices, bias)(x)
    torch.testing.assert_close(found, REFERENCE.pack_linear(matrices, bias)(x), atol=1e-4, rtol=1e-5)


def test_an_embedding_gives_the_stored_numbers(ops: Ops, random_matrix: Callable[[int, int], Matrix]) -> None:
    matrix, token_ids = random_matrix(50, 64), torch.tensor([49, 0, 16, 15, 49])
    embedding = ops.pack_embedding(matrix)
    assert torch.equal(embedding(token_ids), dequantize(matrix).float()[token_ids])
    x = torch.randn(3, 64)
    assert torch.equal(embedding.head()(x), ops.pack_linear([matrix], None)(x))


def test_a_row_of_nan_stays_alone(ops: Ops) -> None:
    linear, x = ops.pack_linear([random_blocks("Q4_1", 33, 64)], None), torch.randn(9, 64)
    clean: Tensor = linear(x)
    x[4] = float("nan")
    found = linear(x)
    assert found[4].isnan().all()
    others = [row for row in range(9) if row != 4]
    assert torch.equal(found[others], clean[others])
