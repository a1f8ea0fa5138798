"""What rounding to int8 may cost, weight by weight."""

import torch

from kernels.arguments import BlockMatrix
from kernels.quantize import to_blocks, to_rows
from kernels.reference_linear import dequantize, rotate_columns


def test_a_weight_moves_by_half_a_step_of_its_block_at_most() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(50, 320) * torch.logspace(-2, 2, 50)[:, None]
    rounded = to_blocks(matrix)
    assert (rounded.format, rounded.shape) == ("Q8_0", (50, 320))
    scales = rounded.blocks[..., :2].contiguous().view(torch.float16).float()
    moved = (dequantize(rounded) - matrix).view(50, 10, 32).abs()
    # The scale has 11 bits: the largest weight, 127 steps away, may move by 127 / 2**11 of a step more.
    assert bool((moved <= scales * (0.5 + 127 / 2**11)).all())
    assert float(moved.max()) > 0


def test_zeros_stay_zeros_and_no_number_no_number() -> None:
    matrix = torch.zeros(2, 64)
    matrix[1, 40] = float("nan")
    found = dequantize(to_blocks(matrix))
    assert torch.equal(found[0], matrix[0])
    assert torch.equal(found[1, :32], matrix[1, :32])
    assert found[1, 40].isnan()


def test_blocks_of_int8_stay_what_they_are() -> None:
    blocks = BlockMatrix("Q8_0", torch.zeros(3, 2, 34, dtype=torch.uint8))
    assert to_blocks(blocks) is blocks


def test_rotating_twice_is_64_times() -> None:
    numbers = torch.randint(-100, 100, (5, 192)).float()
    assert torch.equal(rotate_columns(rotate_columns(numbers)), 64 * numbers)
    one = torch.zeros(1, 64)
    one[0, 5] = 1.0
    assert torch.equal(rotate_columns(one).abs(), torch.ones(1, 64))


def test_a_rotated_weight_moves_by_half_a_step_of_its_row_at_most() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(50, 330)
    matrix[7] = 0.0
    rounded = to_rows(matrix)
    assert (rounded.shape, rounded.numbers.shape) == ((50, 330), (50, 384))
    moved = dequantize(rounded) - matrix
    # By the rotation back, half a step of each of 64 numbers reaches every weight of their block.
    assert bool((moved.abs() <= 32.01 * rounded.scales[:, None]).all())
    assert float(moved.norm()) < 0.01 * float(matrix.norm())
    assert torch.equal(dequantize(rounded)[7], matrix[7])
