"""The weights with which pixels are resized: torch's for uint8 images, as integers, to the bit.

A filter (a triangle, or the cubic of Keys with a = -0.5) is stretched when the image shrinks (antialias), its weights
are made to add up to 1 and rounded to integers of 14 bits or more (PyTorch, UpSampleKernel.cpp, after Pillow's
Resample.c).
"""

import numpy as np

from simclr_dist.data.rendering.kernels import compiled


@compiled
def weights_of(size, side, bicubic):  # type: ignore[no-untyped-def]
    """For each of ``side`` outputs the first of ``size`` inputs and the weights from there on, and the weights' bits.

    All have the same number of weights, zeros at either end, so that the loops over them have no branches.
    """
    scale = size / side
    stretch = max(scale, 1.0)
    support = 2.0 * stretch if bicubic else stretch
    exact = np.zeros((side, int(np.ceil(support)) * 2 + 1))
    first, count = np.empty(side, np.int64), np.empty(side, np.int64)
    largest = 0.0
    for x in range(side):
        center = scale * (x + 0.5)
        first[x] = max(int(center - support + 0.5), 0)
        count[x] = min(int(center + support + 0.5), size) - first[x]
        total = 0.0
        for tap in range(count[x]):
            distance = abs((tap + first[x] - center + 0.5) / stretch)
            exact[x, tap] = _cubic(distance) if bicubic else max(0.0, 1.0 - distance)
            total += exact[x, tap]
        for tap in range(count[x]):
            exact[x, tap] /= total
            largest = max(largest, exact[x, tap])
    precision = 0
    while precision < 22 and int(0.5 + largest * (1 << (precision + 1))) < 1 << 15:
        precision += 1
    taps = count.max()
    weights = np.zeros((side, taps), np.int32)
    for x in range(side):
        start = min(first[x], size - taps)
        for tap in range(count[x]):
            weight = exact[x, tap] * (1 << precision)
            weights[x, first[x] - start + tap] = int(weight - 0.5 if weight < 0 else weight + 0.5)
        first[x] = start
    return first, weights, precision


@compiled
def _cubic(x):  # type: ignore[no-untyped-def]
    """The weight of a pixel at a distance of ``x`` >= 0 stretched pixels; negative from 1 to 2 (Keys 1981)."""
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return ((-0.5 * x + 2.5) * x - 4) * x + 2
    return 0.0
