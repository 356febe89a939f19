"""Gaussian blur of planes of uint8 pixels, along the rows and then along the columns."""

import numpy as np

from simclr_dist.data.kernels import compiled
from simclr_dist.data.kernels.colors import ROUND, fma


@compiled
def gaussian_blur(image, sigma, taps):  # type: ignore[no-untyped-def]
    """``image``, uint8 (3, side, side), blurred in place; borders reflected; ``taps`` is odd.

    The weights are torchvision's (transforms/v2/functional/_misc.py), whose standard deviation is ``sigma`` times the
    square root of 1/2, as torchvision's is.
    """
    side, reach = image.shape[1], taps // 2
    weights = _weights(sigma, taps)
    padded = np.empty(side + 2 * reach, np.float32)
    rows = np.empty((side + 2 * reach, side), np.float32)
    sums = np.empty(side, np.float32)
    for channel in range(3):
        plane = image[channel]
        for y in range(side):
            for x in range(side):
                padded[reach + x] = np.float32(plane[y, x])
            for x in range(reach):
                padded[reach - 1 - x] = padded[reach + 1 + x]
                padded[reach + side + x] = padded[reach + side - 2 - x]
            row = rows[reach + y]
            _start(row, weights[reach], padded[reach:])
            for tap in range(reach):
                _add(row, weights[tap], padded[tap:], padded[taps - 1 - tap :])
        for y in range(reach):
            rows[reach - 1 - y] = rows[reach + 1 + y]
            rows[reach + side + y] = rows[reach + side - 2 - y]
        for y in range(side):
            _start(sums, weights[reach], rows[y + reach])
            for tap in range(reach):
                _add(sums, weights[tap], rows[y + tap], rows[y + taps - 1 - tap])
            target = plane[y]
            for x in range(side):
                target[x] = np.uint8((sums[x] + ROUND) - ROUND)


@compiled
def _start(sums, weight, pixels):  # type: ignore[no-untyped-def]
    for x in range(len(sums)):
        sums[x] = weight * pixels[x]


@compiled
def _add(sums, weight, left, right):  # type: ignore[no-untyped-def]
    """The two pixels that share a weight."""
    for x in range(len(sums)):
        sums[x] = fma(weight, left[x] + right[x], sums[x])


@compiled
def _weights(sigma, taps):  # type: ignore[no-untyped-def]
    limit = (taps - 1) / (2.0 * np.sqrt(2.0))
    exact = np.empty(taps)
    for tap in range(taps):
        place = -limit + 2.0 * limit * tap / (taps - 1)
        exact[tap] = np.exp(-((place / sigma) ** 2))
    return (exact / exact.sum()).astype(np.float32)
