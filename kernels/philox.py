"""Philox4x32-10: random numbers as a function of a key and a counter, with no state between calls.

So token i of a request gets the same random number whatever the batch, the worker or the history of preemptions.

Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011; known answers from Random123.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROUNDS: Final = 10
_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL: Final = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW: Final = np.uint64(0xFFFFFFFF)
_32: Final = np.uint64(32)


def philox4x32(counter: NDArray[np.uint32], key: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Ten rounds of Philox4x32.

    Args:
        counter: [4, num_rows].
        key: [2, num_rows].

    Returns:
        [4, num_rows].
    """
    c0, c1, c2, c3 = counter.astype(np.uint64)
    k0, k1 = key.astype(np.uint64)
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (product1 >> _32) ^ c1 ^ k0, product1 & _LOW, (product0 >> _32) ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return np.stack((c0, c1, c2, c3)).astype(np.uint32)


def uniforms(seeds: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each (seed, position), with 52 random bits.

    52 and not 53: the product of the largest of them and any sum is still less than that sum after rounding.

    Args:
        seeds: [num_rows], the generator's keys.
        positions: [num_rows], the place of the token to be chosen in its sequence.
    """
    place = positions.astype(np.uint64)
    zeros = np.zeros_like(place)
    counter = np.stack((place & _LOW, place >> _32, zeros, zeros)).astype(np.uint32)
    key = np.stack((seeds & _LOW, seeds >> _32)).astype(np.uint32)
    high, low = philox4x32(counter, key)[:2].astype(np.uint64)
    bits = ((high >> np.uint64(6)) << np.uint64(26)) | (low >> np.uint64(6))
    numbers: NDArray[np.float64] = np.ldexp(bits.astype(np.float64), -52)
    return numbers
