"""Gaussian blur of planes of uint8 pixels, along the rows and then along the columns."""

import numpy as np

from simclr_dist.data.rendering.kernels import compiled
from simclr_dist.data.rendering.kernels.colors import ROUND, fma


@compiled
def gaussian_blur(image, sigma, taps):  # type: ignore[no-untyped-def]
    """``image``, uint8 (3, side, side), blurred in place by ``sigma`` pixels; borders reflected; ``taps`` is odd."""
    side = image.shape[1]
    weights = _half_kernel(sigma, taps)
    reach = len(weights) - 1
    padded = np.empty(side + 2 * reach, np.float32)
    inside = padded[reach : reach + side]
    rows = np.empty((side + 2 * reach, side), np.float32)
    sums = np.empty(side, np.float32)
    for channel in range(3):
        plane = image[channel]
        for y in range(side):
            source = plane[y]
            for x in range(side):
                inside[x] = np.float32(source[x])
            for x in range(reach):
                padded[reach - 1 - x] = padded[reach + 1 + x]
                padded[reach + side + x] = padded[reach + side - 2 - x]
            _weigh(padded, reach, 1, weights, rows[reach + y])
        for y in range(reach):
            above, below = rows[reach - 1 - y], rows[reach + side + y]
            near, far = rows[reach + 1 + y], rows[reach + side - 2 - y]
            # By numbers: for `above[:] = near` numba compiles its message about unequal shapes too, for 2 s.
            for x in range(side):
                above[x], below[x] = near[x], far[x]
        flat = rows.reshape(-1)
        for y in range(side):
            _weigh(flat, (reach + y) * side, side, weights, sums)
            target = plane[y]
            for x in range(side):
                target[x] = np.uint8((sums[x] + ROUND) - ROUND)


@compiled
def _weigh(pixels, start, stride, weights, sums):  # type: ignore[no-untyped-def]
    """The kernel's sums centred at ``start``, ``start`` + 1, ...; ``stride`` is from a tap to the next.

    Three pairs of taps at a time, as ``sums`` is read and written for each. In slices, so that numba sees that no index
    is negative.
    """
    length = len(sums)
    center = pixels[start : start + length]
    for x in range(length):
        sums[x] = weights[0] * center[x]
    tap = 1
    while tap + 2 < len(weights):
        a, b, c = weights[tap], weights[tap + 1], weights[tap + 2]
        a_left, a_right = pixels[start - tap * stride :], pixels[start + tap * stride :]
        b_left, b_right = pixels[start - (tap + 1) * stride :], pixels[start + (tap + 1) * stride :]
        c_left, c_right = pixels[start - (tap + 2) * stride :], pixels[start + (tap + 2) * stride :]
        for x in range(length):
            pairs = fma(c, c_left[x] + c_right[x], sums[x])
            pairs = fma(b, b_left[x] + b_right[x], pairs)
            sums[x] = fma(a, a_left[x] + a_right[x], pairs)
        tap += 3
    while tap < len(weights):
        a, left, right = weights[tap], pixels[start - tap * stride :], pixels[start + tap * stride :]
        for x in range(length):
            sums[x] = fma(a, left[x] + right[x], sums[x])
        tap += 1


@compiled
def _half_kernel(sigma, taps):  # type: ignore[no-untyped-def]
    """Float32 weights of the distances 0, 1, ..., as torchvision's (transforms/v2/functional/_misc.py).

    Without those that are lost when a sum is rounded to float32: a narrow kernel need not be as long as ``taps``.
    """
    exact = np.empty(taps // 2 + 1)
    for distance in range(len(exact)):
        exact[distance] = np.exp(-0.5 * (distance / sigma) ** 2)
    exact /= 2 * exact.sum() - exact[0]
    reach = len(exact)
    while reach > 1 and exact[reach - 1] < 2.0**-26:
        reach -= 1
    return exact[:reach].astype(np.float32)
