"""Crop, resize and flip in one pass over the pixels that are needed.

The resampling is torchvision's for uint8 images, to the bit: integer weights (filters.py), first along the rows,
rounded and clamped to 0..255, then along the columns. A bilinear sum never leaves 0..255; a bicubic one does beside
edges, where its negative weights meet what is bright or dark.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from simclr_dist.data.rendering.kernels import compiled
from simclr_dist.data.rendering.kernels.filters import weights_of

_COLORS = 3


def _weighted_pixel(known_pairs: int | None) -> Any:
    """The weighted sum of some neighbouring pixels, its bytes in one register: numba would take each alone.

    Its arguments: the addresses of the first pixel and of its weight (int16), how many pairs of neighbours there are
    (``known_pairs`` where that is not None), the weights' bits.
    """
    byte, half_word, word = ir.IntType(8), ir.IntType(16), ir.IntType(32)
    bytes_8, words_8, words_4 = ir.VectorType(byte, 8), ir.VectorType(word, 8), ir.VectorType(word, 4)

    def generate(_, builder: ir.IRBuilder, __, arguments):  # type: ignore[no-untyped-def]
        pixels, weights, pairs, precision = arguments
        if known_pairs is not None:
            pairs = pairs.type(known_pairs)  # a constant: LLVM unrolls the loop

        def lanes(value: ir.Value, chosen: list[int]) -> ir.Value:
            mask = ir.Constant(ir.VectorType(word, len(chosen)), chosen)
            return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), mask)

        def in_every_lane(value: ir.Value) -> ir.Value:
            one = ir.Constant(words_4, ir.Undefined)
            return lanes(builder.insert_element(one, value, word(0)), [0, 0, 0, 0])

        def load(address: ir.Value, type_: ir.Type, align: int) -> ir.Value:
            return builder.load(builder.inttoptr(address, type_.as_pointer()), align=align)

        total = cgutils.alloca_once_value(builder, in_every_lane(builder.shl(word(1), builder.sub(precision, word(1)))))
        with cgutils.for_range(builder, pairs) as loop:
            index = loop.index
            # Red of both pixels, green of both, blue of both: one instruction multiplies and adds each two (pmaddwd).
            two = load(builder.add(pixels, builder.mul(index, index.type(2 * _COLORS))), bytes_8, 1)
            two = lanes(two, [0, 3, 1, 4, 2, 5, 2, 5])
            by = load(builder.add(weights, builder.mul(index, index.type(4))), ir.VectorType(half_word, 2), 2)
            products = builder.mul(builder.zext(two, words_8), builder.sext(lanes(by, [0, 1] * 4), words_8))
            sums = builder.add(lanes(products, [0, 2, 4, 6]), lanes(products, [1, 3, 5, 7]))
            builder.store(builder.add(builder.load(total), sums), total)
        value = builder.ashr(builder.load(total), in_every_lane(precision))
        for end, beyond in ((0, "<"), (255, ">")):
            limit = ir.Constant(words_4, [end] * 4)
            value = builder.select(builder.icmp_signed(beyond, value, limit), limit, value)
        return builder.bitcast(builder.trunc(value, ir.VectorType(byte, 4)), word)

    @intrinsic
    def weighted(typing, pixels, weights, pairs, precision):  # type: ignore[no-untyped-def]
        del typing, pixels, weights, pairs, precision
        return types.uint32(types.int64, types.int64, types.int64, types.int32), generate

    return weighted


_weighted_2, _weighted_4, _weighted_n = _weighted_pixel(1), _weighted_pixel(2), _weighted_pixel(None)


@compiled
def crop_and_resize(image, top, left, height, width, flip, bicubic, out):  # type: ignore[no-untyped-def]
    """A box of ``image``, uint8 (h, w, 3), resized into ``out``, uint8 (3, side, side); both contiguous."""
    rows = _resize_rows(image, top, left, height, width, out.shape[2], flip, bicubic)
    _resize_columns(rows, bicubic, out)


@compiled
def _resize_rows(image, top, left, height, width, side, flip, bicubic):  # type: ignore[no-untyped-def]
    """A box of uint8 (h, w, 3) -> uint32 (height, side), four bytes a pixel: red, green, blue and one unused."""
    unflipped, weights, precision = weights_of(width, side, bicubic)
    pairs, bits = (weights.shape[1] + 1) // 2, np.int32(precision)
    first, paired = np.empty(side, np.int64), np.zeros((side, 2 * pairs), np.int16)
    for x in range(side):
        place = side - 1 - x if flip else x
        first[x] = unflipped[place]
        for tap in range(weights.shape[1]):
            paired[x, tap] = weights[place, tap]
    resized = np.empty((height, side), np.uint32)
    line = np.zeros(_COLORS * width + 8, np.uint8)  # pixels are read two at a time, in eight bytes
    pixels, of_pixels = line.ctypes.data, paired.ctypes.data
    for y in range(height):
        source, target = image[top + y].reshape(-1), resized[y]
        for i in range(_COLORS * width):
            line[i] = source[_COLORS * left + i]
        # The usual numbers of neighbours without a loop over them: enlarging takes two, shrinking to a half three.
        if pairs == 1:
            for x in range(side):
                target[x] = _weighted_2(pixels + _COLORS * first[x], of_pixels + 4 * x, pairs, bits)
        elif pairs == 2:
            for x in range(side):
                target[x] = _weighted_4(pixels + _COLORS * first[x], of_pixels + 8 * x, pairs, bits)
        else:
            for x in range(side):
                target[x] = _weighted_n(pixels + _COLORS * first[x], of_pixels + 4 * pairs * x, pairs, bits)
    return resized


@compiled
def _resize_columns(rows, bicubic, out):  # type: ignore[no-untyped-def]
    """uint32 (h, side), see :func:`_resize_rows` -> uint8 (3, side, side)."""
    side = out.shape[1]
    first, weights, precision = weights_of(rows.shape[0], side, bicubic)
    taps, bits = weights.shape[1], np.int32(precision)
    sums = np.empty((3, side), np.int32)
    for y in range(side):
        sums[:] = np.int32(1 << (precision - 1))
        for tap in range(0, taps - 1, 2):
            near = first[y] + tap
            _add_rows(rows[near], rows[near + 1], weights[y, tap], weights[y, tap + 1], sums[0], sums[1], sums[2])
        if taps % 2:
            last = rows[first[y] + taps - 1]
            _add_rows(last, last, weights[y, taps - 1], np.int32(0), sums[0], sums[1], sums[2])
        for channel in range(3):
            target, total = out[channel, y], sums[channel]
            for x in range(side):
                target[x] = min(max(total[x] >> bits, np.int32(0)), np.int32(255))


@compiled
def _add_rows(one, other, of_one, of_other, reds, greens, blues):  # type: ignore[no-untyped-def]
    """Add two rows' weighted bytes: two at a time, as the sums are read and written for each."""
    byte = np.uint32(255)
    for x in range(len(reds)):
        a, b = one[x], other[x]
        # numba would go on in 64 bits; in 32 twice as many sums fit a register.
        red = np.int32(reds[x] + of_one * np.int32(a & byte))
        green = np.int32(greens[x] + of_one * np.int32(a >> np.uint32(8) & byte))
        blue = np.int32(blues[x] + of_one * np.int32(a >> np.uint32(16) & byte))
        reds[x] = np.int32(red + of_other * np.int32(b & byte))
        greens[x] = np.int32(green + of_other * np.int32(b >> np.uint32(8) & byte))
        blues[x] = np.int32(blue + of_other * np.int32(b >> np.uint32(16) & byte))
