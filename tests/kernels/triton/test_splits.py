"""Among how many programs work is split: pure, from sizes alone."""

import pytest

from kernels.triton.splits import MAX_SPLITS, num_splits


@pytest.mark.parametrize(
    ("num_programs", "wanted", "most", "expected"),
    [
        (256, 264, 16, 1),  # enough as it is
        (96, 264, 16, 2),  # 4 would be more than are wanted
        (8, 264, 128, 32),
        (8, 264, 20, 16),  # smaller shares are not worth it
        (1, 10_000, 10_000, MAX_SPLITS),
        (600, 528, 16, 1),
        (32, 528, 0.5, 1),
    ],
)
def test_splits_are_the_largest_power_of_2_that_is_wanted_and_worth_it(
    num_programs: int, wanted: int, most: float, expected: int
) -> None:
    assert num_splits(num_programs=num_programs, wanted=wanted, most=most) == expected
