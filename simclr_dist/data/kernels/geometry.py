"""Crop, resize and flip in one pass over the pixels that are needed.

The resampling is torchvision's for uint8 images, to the bit: a triangle filter, stretched when the image shrinks
(antialias), with weights rounded to 16-bit integers; first along the rows, rounded, then along the columns (PyTorch,
UpSampleKernel.cpp, after Pillow's Resample.c).
"""

import numpy as np

from simclr_dist.data.kernels import compiled


@compiled
def crop_and_resize(image, top, left, height, width, flip, out):  # type: ignore[no-untyped-def]
    """A box of ``image``, uint8 (3, h, w) with any strides, resized into ``out``, uint8 (3, side, side), contiguous."""
    rows = _resize_rows(image[:, top : top + height, left : left + width], out.shape[2], flip)
    _resize_columns(rows, out)


@compiled
def _resize_rows(box, side, flip):  # type: ignore[no-untyped-def]
    """uint8 (3, h, w) -> uint8 (3, h, side)."""
    height, width = box.shape[1], box.shape[2]
    first, weights, precision = _filter(width, side)
    if flip:
        first, weights = first[::-1].copy(), weights[::-1].copy()
    resized = np.empty((3, height, side), np.uint8)
    pixels = np.empty((3, width), np.int32)
    for y in range(height):
        for channel in range(3):
            for x in range(width):
                pixels[channel, x] = box[channel, y, x]
        for channel in range(3):
            row, target = pixels[channel], resized[channel, y]
            for x in range(side):
                total = 1 << (precision - 1)
                for tap in range(weights.shape[1]):
                    total += weights[x, tap] * row[first[x] + tap]
                target[x] = min(max(total >> precision, 0), 255)
    return resized


@compiled
def _resize_columns(rows, out):  # type: ignore[no-untyped-def]
    """uint8 (3, h, side) -> uint8 (3, side, side)."""
    side = out.shape[1]
    first, weights, precision = _filter(rows.shape[1], side)
    half, shift, least, most = np.int32(1 << (precision - 1)), np.int32(precision), np.int32(0), np.int32(255)
    sums = np.empty(side, np.int32)
    for channel in range(3):
        for y in range(side):
            sums[:] = half
            for tap in range(weights.shape[1]):
                weight, row = weights[y, tap], rows[channel, first[y] + tap]
                for x in range(side):
                    # numba would go on in 64 bits; in 32 twice as many sums fit a register.
                    sums[x] = np.int32(sums[x] + weight * np.int32(row[x]))
            target = out[channel, y]
            for x in range(side):
                target[x] = min(max(sums[x] >> shift, least), most)


@compiled
def _filter(size, side):  # type: ignore[no-untyped-def]
    """For each of ``side`` outputs the first of ``size`` inputs and the weights from there on, and the weights' bits.

    All have the same number of weights, zeros at either end, so that the loops over them have no branches.
    """
    scale = size / side
    support = max(scale, 1.0)
    exact = np.zeros((side, int(np.ceil(support)) * 2 + 1))
    first, count = np.empty(side, np.int64), np.empty(side, np.int64)
    largest = 0.0
    for x in range(side):
        center = scale * (x + 0.5)
        first[x] = max(int(center - support + 0.5), 0)
        count[x] = min(int(center + support + 0.5), size) - first[x]
        total = 0.0
        for tap in range(count[x]):
            exact[x, tap] = max(0.0, 1.0 - abs((tap + first[x] - center + 0.5) / support))
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
            weights[x, first[x] - start + tap] = int(0.5 + exact[x, tap] * (1 << precision))
        first[x] = start
    return first, weights, precision
