import numpy as np
import pytest

from kernels.philox import philox4x32, uniforms

KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
"""From Random123's kat_vectors, philox4x32 with 10 rounds."""


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    found = philox4x32(np.array(counter, np.uint32)[:, None], np.array(key, np.uint32)[:, None])
    assert tuple(found[:, 0].tolist()) == answer


def test_known_answers_hold_side_by_side() -> None:
    counters, keys, answers = (np.array(column, np.uint32).T for column in zip(*KNOWN_ANSWERS, strict=True))
    assert (philox4x32(counters, keys) == answers).all()


def test_a_number_depends_on_its_own_seed_and_position_alone() -> None:
    seeds = np.array([7, 2**64 - 1, 7, 0], np.uint64)
    positions = np.array([1, 1, 2, 2**33], np.int64)
    together = uniforms(seeds, positions)
    alone = [uniforms(seeds[row : row + 1], positions[row : row + 1])[0] for row in range(4)]
    assert together.tolist() == alone
    assert len(set(alone)) == 4


def test_numbers_are_uniform_over_seeds_and_over_positions() -> None:
    counting = np.arange(40_000)
    for numbers in (
        uniforms(np.full(40_000, 5, np.uint64), counting),
        uniforms(counting.astype(np.uint64), np.full(40_000, 9)),
    ):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
        chi_squared = ((counts - 2000) ** 2 / 2000).sum()
        assert chi_squared < 43.8, "19 degrees of freedom exceed this once in a thousand; the numbers are fixed"
