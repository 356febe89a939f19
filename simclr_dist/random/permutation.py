"""A pseudo-random permutation, computed position by position in O(1) memory.

A keyed Feistel network permutes [0, 2^k), 2^k being the first power of two that holds the data set; a result outside
the data set is permuted again until it falls inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). No list of indices exists anywhere, so a billion images cost nothing.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simclr_dist.random.philox import Purpose, random_words

_ROUNDS = 12


def permute(
    positions: NDArray[np.int64], size: int, seed: int, epoch: int, purpose: Purpose = Purpose.ORDER, number: int = 0
) -> NDArray[np.int64]:
    """The sample ids at some positions of the permutation of ``range(size)`` that belongs to (seed, epoch).

    Each ``purpose`` has permutations of its own, and of these each ``number``.
    """
    keys = _round_keys(seed, epoch, purpose, number)
    values = np.array(positions, dtype=np.uint64)
    walking = np.arange(len(values))
    while len(walking):
        values[walking] = _feistel(values[walking], max(2, (size - 1).bit_length()), keys)
        walking = walking[values[walking] >= size]
    return values.astype(np.int64)


@lru_cache(maxsize=8)
def _round_keys(seed: int, epoch: int, purpose: Purpose, number: int) -> tuple[np.uint64, ...]:
    of = np.array([number], dtype=np.int64)
    words = random_words(seed, purpose, epoch, of, 0, 2 * _ROUNDS)[0].astype(np.uint64)
    return tuple(words[0::2] << np.uint64(32) | words[1::2])


def _feistel(values: NDArray[np.uint64], bits: int, keys: tuple[np.uint64, ...]) -> NDArray[np.uint64]:
    """A bijection of [0, 2^bits): the two halves are mixed into each other in turn."""
    low_bits = np.uint64(bits // 2)
    high_mask, low_mask = np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << bits // 2) - 1)
    high, low = values >> low_bits, values & low_mask
    for number, key in enumerate(keys):
        if number % 2:
            low = low ^ _mix(high ^ key) & low_mask
        else:
            high = high ^ _mix(low ^ key) & high_mask
    return high << low_bits | low


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The 64-bit finaliser of SplitMix64: every input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
