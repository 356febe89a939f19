"""Counter-based random numbers: a pure function of (seed, purpose, epoch, sample, stream), in any order, anywhere.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), vectorised in numpy. It uses
32-bit multiplications only, so a numba or a GPU renderer can draw the same numbers.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW_32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


class Purpose(IntEnum):
    """What numbers are drawn for; each purpose has numbers of its own."""

    ORDER = 1
    VIEW = 2
    SUBSTITUTE = 3
    LABELS = 4
    METHOD = 5
    PARTNER = 6
    SHARDS = 7
    WINDOW = 8


def philox4x32(key: int, counter: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Four random words for each counter.

    Args:
        key: 64 bits.
        counter: shape (..., 4).

    Returns:
        shape (..., 4), the ten-round Philox of Random123.
    """
    words = np.asarray(counter, dtype=np.uint64)
    c0, c1, c2, c3 = (words[..., i] for i in range(4))
    k0, k1 = key & 0xFFFFFFFF, (key >> 32) & 0xFFFFFFFF
    for _ in range(10):
        product_0, product_1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product_1 >> _32) ^ c1 ^ np.uint64(k0),
            product_1 & _LOW_32,
            (product_0 >> _32) ^ c3 ^ np.uint64(k1),
            product_0 & _LOW_32,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3), axis=-1).astype(np.uint32)


def random_words(
    seed: int, purpose: Purpose, epoch: int, samples: NDArray[np.int64], stream: int, count: int
) -> NDArray[np.uint32]:
    """``count`` words for each sample id, shape (len(samples), count).

    ``stream`` (0..255) tells apart several draws for the same sample, such as its views.
    """
    blocks = -(-count // 4)
    ids = np.asarray(samples, dtype=np.uint64)
    counter = np.empty((len(ids), blocks, 4), dtype=np.uint32)
    counter[..., 0] = (ids & _LOW_32)[:, None]
    counter[..., 1] = (ids >> _32)[:, None]
    counter[..., 2] = epoch
    counter[..., 3] = (int(purpose) << 24 | stream << 16) + np.arange(blocks)
    return philox4x32(seed, counter).reshape(len(ids), blocks * 4)[:, :count]


def uniforms(
    seed: int, purpose: Purpose, epoch: int, samples: NDArray[np.int64], stream: int, count: int
) -> NDArray[np.float64]:
    """As :func:`random_words`, uniform in [0, 1)."""
    return random_words(seed, purpose, epoch, samples, stream, count).astype(np.float64) * 2.0**-32
