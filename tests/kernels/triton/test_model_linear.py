"""Which kernel multiplies which matrix of a checkpoint; the product beside that of the numbers it stands for."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from kernels import reference_linear
from kernels.arguments import IntegerMatrix, Matrix, ScaledMatrix
from kernels.reference_linear import take_rows
from kernels.triton.linear import keeps, pack_linear
from kernels.triton.packed_linear import PackedLinear
from kernels.triton.scaled_linear import ScaledLinear

IN, GROUP = 64, 32


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def integers(out: int, *, bits: int = 4, most: int = 15, shuffled: bool = False) -> IntegerMatrix:
    groups = torch.arange(IN) // GROUP
    num_groups = IN // GROUP if bits == 4 else 1
    return IntegerMatrix(
        bits,
        torch.randint(0, 2**bits, (out, IN)).to(torch.uint8),
        (torch.rand(out, num_groups) * 0.02 + 0.01).half(),
        torch.randint(1, most + 1, (out, num_groups)).int() if bits == 4 else torch.full((out, 1), 128).int(),
        groups[torch.randperm(IN)] if shuffled else groups if bits == 4 else torch.zeros(IN, dtype=torch.int64),
        rounds_activations=bits == 8,
    )


def fp8(out: int, block: tuple[int, int]) -> ScaledMatrix:
    scales = torch.rand(-(-out // block[0]), -(-IN // block[1])) * 0.1 + 0.1
    return ScaledMatrix(torch.randn(out, IN).to(torch.float8_e4m3fn), scales, block)


def assert_product(matrices: Sequence[Matrix], tolerance: float) -> None:
    x, bias = torch.randn(3, IN), torch.randn(sum(matrix.shape[0] for matrix in matrices))
    expected = reference_linear.pack_linear(matrices, bias)(x)
    found = pack_linear(matrices, bias)(x)
    torch.testing.assert_close(found, expected, atol=tolerance * float(expected.abs().max()), rtol=0)


def test_matrices_of_one_kind_become_one() -> None:
    linear = pack_linear([integers(16), integers(8), integers(8)], None)
    assert isinstance(linear, PackedLinear)
    assert linear.scales.shape == (2, 32)
    assert isinstance(pack_linear([integers(8, bits=8), integers(16, bits=8)], None), ScaledLinear)
    whole = pack_linear([fp8(128, (128, 128)), fp8(40, (128, 128))], None)
    assert isinstance(whole, ScaledLinear)
    assert whole.block == (128, 128)
    by_row = pack_linear([fp8(40, (40, IN)), fp8(24, (24, IN))], None)
    assert isinstance(by_row, ScaledLinear)
    assert by_row.block == (1, IN)


def test_products_are_those_of_the_dequantized_matrices() -> None:
    assert_product([integers(16), integers(8)], 1e-5)
    assert_product([integers(8, most=16), integers(8, shuffled=True), torch.randn(5, IN)], 1e-5)
    assert_product([integers(8, bits=8), integers(16, bits=8)], 0.02)
    assert_product([fp8(40, (40, IN)), fp8(24, (24, IN))], 0.05)


def test_rows_are_taken_with_their_scales() -> None:
    rows = torch.tensor([9, 0, 3, 17, 18, 2, 1, 5])
    for matrix in (integers(24), fp8(24, (24, IN)), fp8(24, (8, 32))):
        taken = reference_linear.dequantize(take_rows(matrix, rows))
        assert torch.equal(taken, reference_linear.dequantize(matrix)[rows])


def test_what_no_kernel_multiplies_is_not_kept() -> None:
    assert keeps(integers(16))
    assert keeps(integers(16, bits=8))
    assert keeps(fp8(40, (128, 128)))
    assert not keeps(torch.randn(8, IN))
    assert not keeps(integers(12)), "words hold eight columns"
    assert not keeps(replace(integers(16, bits=8), rounds_activations=False)), "activations stay as they are"
    assert not keeps(replace(integers(8), zeros=torch.tensor([[0, 16]] * 8).int())), "no offset is right for both"
    e5m2 = fp8(8, (8, IN)).weight.float().to(torch.float8_e5m2)
    assert not keeps(replace(fp8(8, (8, IN)), weight=e5m2))
