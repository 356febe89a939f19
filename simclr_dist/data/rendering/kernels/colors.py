"""SimCLR's colour operations on planes of uint8 pixels: (3, pixels), changed in place.

Each operation computes in float32 and rounds its result to uint8 as torchvision's operation of that name does
(transforms/v2/functional/_color.py), with its multiply-adds fused where torch fuses them; so the two agree to the bit,
up to what a blurred pixel exactly between two integers becomes.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from simclr_dist.data.rendering.kernels import compiled

_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)
_ZERO, _ONE, _MAX = np.float32(0), np.float32(1), np.float32(255)
_SIXTH, _SIX = np.float32(1 / 6), np.float32(6)
ROUND = np.float32(1.5 * 2**23)
"""Added and taken away it leaves the nearest integer, ties to even: np.rint would be a call for each pixel."""
_TO_UNIT, _FROM_UNIT = np.float32(1 / 255), np.float32(255 + 1 - 1e-3)


def _multiply_add(typing, a, b, c):  # type: ignore[no-untyped-def]
    del typing, a, b, c

    def generate(_, builder: ir.IRBuilder, __, arguments):  # type: ignore[no-untyped-def]
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


fma: Any = intrinsic(_multiply_add)
"""``a * b + c`` in float32, rounded once."""


@compiled
def _gray(red, green, blue):  # type: ignore[no-untyped-def]
    return fma(np.float32(blue), _BLUE, fma(np.float32(green), _GREEN, np.float32(red) * _RED))


@compiled
def _clamped(value):  # type: ignore[no-untyped-def]
    return np.uint8(min(max(value, _ZERO), _MAX))


@compiled
def adjust_brightness(planes, factor):  # type: ignore[no-untyped-def]
    """Pixels times ``factor``."""
    ratio = np.float32(factor)
    flat = planes.reshape(-1)
    for i in range(len(flat)):
        flat[i] = _clamped(np.float32(flat[i]) * ratio)


@compiled
def adjust_contrast(planes, factor):  # type: ignore[no-untyped-def]
    """Blended with the mean of the gray levels."""
    red, green, blue = planes[0], planes[1], planes[2]
    total = np.int32(0)
    for i in range(len(red)):
        total += np.int32(_gray(red[i], green[i], blue[i]))
    mean, ratio, rest = np.float32(total / len(red)), np.float32(factor), np.float32(1.0 - factor)
    flat = planes.reshape(-1)
    for i in range(len(flat)):
        flat[i] = _clamped(fma(mean, rest, np.float32(flat[i]) * ratio))


@compiled
def adjust_saturation(planes, factor):  # type: ignore[no-untyped-def]
    """Blended with the pixel's own gray level."""
    red, green, blue = planes[0], planes[1], planes[2]
    ratio, rest = np.float32(factor), np.float32(1.0 - factor)
    for i in range(len(red)):
        gray = np.float32(np.int32(_gray(red[i], green[i], blue[i])))
        red[i] = _clamped(fma(gray, rest, np.float32(red[i]) * ratio))
        green[i] = _clamped(fma(gray, rest, np.float32(green[i]) * ratio))
        blue[i] = _clamped(fma(gray, rest, np.float32(blue[i]) * ratio))


@compiled
def adjust_hue(planes, shift):  # type: ignore[no-untyped-def]
    """Hue turned by ``shift`` turns in HSV."""
    reds, greens, blues = planes[0], planes[1], planes[2]
    turn = np.float32(shift)
    for i in range(len(reds)):
        red, green, blue = (
            np.float32(reds[i]) * _TO_UNIT,
            np.float32(greens[i]) * _TO_UNIT,
            np.float32(blues[i]) * _TO_UNIT,
        )
        value = max(max(red, green), blue)
        span = value - min(min(red, green), blue)
        divisor = _ONE if span == _ZERO else span
        saturation = span / (_ONE if span == _ZERO else value)
        to_red, to_green, to_blue = (value - red) / divisor, (value - green) / divisor, (value - blue) / divisor
        hue = to_green + np.float32(4) - to_red
        hue = to_red + np.float32(2) - to_blue if value == green else hue
        hue = to_blue - to_green if value == red else hue
        hue = hue * _SIXTH + _ONE
        hue = hue - _ONE if hue >= _ONE else hue
        hue = hue + turn
        hue = hue + _ONE if hue < _ZERO else hue
        hue = hue - _ONE if hue >= _ONE else hue
        sector = hue * _SIX
        whole = np.float32(np.int32(sector))
        part = saturation * (sector - whole)
        lack = _ONE - saturation
        low = lack * value
        falling = min(max((_ONE - part) * value, _ZERO), _ONE)
        rising = min(max((part + lack) * value, _ZERO), _ONE)
        # The six sixths of the colour circle, as selections: a branch would keep the loop from being vectorised.
        is_1, is_2, is_3 = whole == _ONE, whole == np.float32(2), whole == np.float32(3)
        is_4, is_5 = whole == np.float32(4), whole == np.float32(5)
        red = falling if is_1 else (low if is_2 or is_3 else (rising if is_4 else value))
        green = value if is_1 or is_2 else (falling if is_3 else (low if is_4 or is_5 else rising))
        blue = rising if is_2 else (value if is_3 or is_4 else (falling if is_5 else low))
        reds[i] = np.uint8(red * _FROM_UNIT)
        greens[i] = np.uint8(green * _FROM_UNIT)
        blues[i] = np.uint8(blue * _FROM_UNIT)


@compiled
def mix_colors(planes, mix):  # type: ignore[no-untyped-def]
    """The affine form: new colours from the pixel's and the mean's, ``mix`` being float64 (3, 6)."""
    red, green, blue = planes[0], planes[1], planes[2]
    means = (_total(red) / len(red), _total(green) / len(red), _total(blue) / len(red))
    rr, rg, rb, r0 = _mix_row(mix, 0, means)
    gr, gg, gb, g0 = _mix_row(mix, 1, means)
    br, bg, bb, b0 = _mix_row(mix, 2, means)
    for i in range(len(red)):
        r, g, b = np.float32(red[i]), np.float32(green[i]), np.float32(blue[i])
        red[i] = _nearest(fma(b, rb, fma(g, rg, fma(r, rr, r0))))
        green[i] = _nearest(fma(b, gb, fma(g, gg, fma(r, gr, g0))))
        blue[i] = _nearest(fma(b, bb, fma(g, bg, fma(r, br, b0))))


@compiled
def _mix_row(mix, row, means):  # type: ignore[no-untyped-def]
    """The three factors of a channel and its constant, as float32: plain numbers, quick to compile."""
    constant = mix[row, 3] * means[0] + mix[row, 4] * means[1] + mix[row, 5] * means[2]
    return np.float32(mix[row, 0]), np.float32(mix[row, 1]), np.float32(mix[row, 2]), np.float32(constant)


@compiled
def _total(plane):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for i in range(len(plane)):
        total = np.int32(total + np.int32(plane[i]))
    return total


@compiled
def _nearest(value):  # type: ignore[no-untyped-def]
    return np.uint8((min(max(value, _ZERO), _MAX) + ROUND) - ROUND)


@compiled
def to_grayscale(planes):  # type: ignore[no-untyped-def]
    """All three planes become the gray levels."""
    red, green, blue = planes[0], planes[1], planes[2]
    for i in range(len(red)):
        gray = np.uint8(_gray(red[i], green[i], blue[i]))
        red[i] = gray
        green[i] = gray
        blue[i] = gray


@compiled
def solarize(planes, threshold):  # type: ignore[no-untyped-def]
    """Pixels from ``threshold`` on are inverted."""
    flat = planes.reshape(-1)
    for i in range(len(flat)):
        flat[i] = np.uint8(255) - flat[i] if flat[i] >= np.uint8(threshold) else flat[i]
