"""Triton programs for batch norm of groups: each reads its tensors once, and all groups go in one launch.

A tensor is rows of channels: row r of a group and channel c, where channels stand together in memory (``LAST``:
``channels_last``, features of a head), or else ``inner`` pixels of one channel do. Sums are made in parts, a program
each, and the parts are joined in float64 by a second program, in an order that does not depend on the card.
"""

import triton
import triton.language as tl


@triton.jit
def _at(r, c, inner, channels, LAST: tl.constexpr):
    """Where the elements of rows ``r`` and channels ``c`` are."""
    r = r.to(tl.int64)
    if LAST:
        rows, columns = r * channels, c
    else:
        rows, columns = (r // inner) * inner * channels + r % inner, c * inner
    return rows[:, None] + columns[None, :]


@triton.jit
def _normal(value, about, scale, shift):
    """Of the output's numbers before they are rounded. One instruction, so that all programs have the same bits."""
    return tl.fma(value - about[None, :], scale[None, :], shift[None, :])


@triton.jit
def _shift(bias, c, real, BIAS: tl.constexpr, SUM: tl.constexpr, CHANNELS: tl.constexpr):
    """The offsets of channels ``c``; 0 without BIAS."""
    if BIAS:  # noqa: SIM108 - Triton compiles one of the two, by a constant
        shift = tl.load(bias + c, mask=real, other=0.0)
    else:
        shift = tl.zeros((CHANNELS,), SUM)
    return shift


@triton.jit
def partial_moments(
    x, means, squares, rows, part, parts, inner, channels,
    LAST: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of ``part`` rows of a group, each (groups * parts, channels).

    Summed about the mean of the part's first rows, so that nothing cancels.
    """
    group = tl.program_id(0) // parts
    begin = (tl.program_id(0) % parts) * part
    end = tl.minimum(begin + part, rows)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    r = begin + tl.arange(0, ROWS)
    inside = (r < end)[:, None] & real[None, :]
    first = tl.load(x + _at(group * rows + r, c, inner, channels, LAST), mask=inside, other=0.0).to(SUM)
    about = tl.sum(first, 0) / tl.minimum(ROWS, end - begin).to(SUM)
    total = tl.zeros((ROWS, CHANNELS), SUM)
    square = tl.zeros((ROWS, CHANNELS), SUM)
    for top in range(begin, end, ROWS):
        r = top + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & real[None, :]
        value = tl.load(x + _at(group * rows + r, c, inner, channels, LAST), mask=inside, other=0.0).to(SUM)
        value = tl.where(inside, value - about[None, :], 0.0)
        total += value
        square += value * value
    off = tl.sum(total, 0) / (end - begin).to(SUM)
    out = tl.program_id(0).to(tl.int64) * channels + c
    tl.store(means + out, about + off, mask=real)
    tl.store(squares + out, tl.sum(square, 0) - off * off * (end - begin).to(SUM), mask=real)


@triton.jit
def joined_moments(
    means, squares, mean, variance, rows, part, parts, channels, PARTS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Mean and biased variance of each group from those of its parts (Chan, Golub and LeVeque 1983)."""
    group = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    total = tl.zeros((PARTS, CHANNELS), tl.float64)
    square = tl.zeros((PARTS, CHANNELS), tl.float64)
    for top in range(0, parts, PARTS):
        p = top + tl.arange(0, PARTS)
        inside = (p < parts)[:, None] & real[None, :]
        at = (group * parts + p).to(tl.int64)[:, None] * channels + c[None, :]
        count = tl.minimum(part, rows - p * part).to(tl.float64)[:, None]
        of_part = tl.load(means + at, mask=inside, other=0.0).to(tl.float64)
        within = tl.load(squares + at, mask=inside, other=0.0).to(tl.float64)
        total += tl.where(inside, count * of_part, 0.0)
        square += tl.where(inside, within + count * of_part * of_part, 0.0)
    middle = tl.sum(total, 0) / rows
    spread = tl.sum(square, 0) / rows - middle * middle
    out = group.to(tl.int64) * channels + c
    tl.store(mean + out, middle, mask=real)
    tl.store(variance + out, tl.maximum(spread, 0.0), mask=real)


@triton.jit
def partial_sums(
    grad, x, y, weight, bias, mean, inverse, masked, sums, products, rows, part, parts, inner, channels,
    LAST: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    BIAS: tl.constexpr, RECTIFIED: tl.constexpr, GIVEN: tl.constexpr,
):  # fmt: skip
    """Sums of ``grad`` and of ``grad * (x - mean)`` over ``part`` rows of a group, each (groups * parts, channels).

    ``RECTIFIED``: ``grad`` is of the rectified output, and counts where that is above 0. ``GIVEN``: the output is
    ``y``, and what counts of ``grad`` is written to ``masked``; else it is made of ``x`` again, which is read anyway.
    """
    group = tl.program_id(0) // parts
    begin = (tl.program_id(0) % parts) * part
    end = tl.minimum(begin + part, rows)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    of_group = group.to(tl.int64) * channels + c
    about = tl.load(mean + of_group, mask=real, other=0.0)
    if RECTIFIED and not GIVEN:
        scale = tl.load(inverse + of_group, mask=real, other=0.0) * tl.load(weight + c, mask=real, other=0.0)
        shift = _shift(bias, c, real, BIAS, SUM, CHANNELS)
    total = tl.zeros((ROWS, CHANNELS), SUM)
    product = tl.zeros((ROWS, CHANNELS), SUM)
    for top in range(begin, end, ROWS):
        r = top + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & real[None, :]
        at = _at(group * rows + r, c, inner, channels, LAST)
        slope = tl.load(grad + at, mask=inside, other=0.0).to(SUM)
        value = tl.load(x + at, mask=inside, other=0.0).to(SUM)
        if RECTIFIED:
            if GIVEN:
                made = tl.load(y + at, mask=inside, other=0.0).to(SUM)
            else:
                made = _normal(value, about, scale, shift).to(x.dtype.element_ty).to(SUM)
            slope = tl.where(made <= 0, 0.0, slope)
            if GIVEN:
                tl.store(masked + at, slope.to(masked.dtype.element_ty), inside)
        total += slope
        product += slope * (value - about[None, :])
    out = tl.program_id(0).to(tl.int64) * channels + c
    tl.store(sums + out, tl.sum(total, 0), mask=real)
    tl.store(products + out, tl.sum(product, 0), mask=real)


@triton.jit
def joined_sums(sums, products, sum, product, parts, channels, PARTS: tl.constexpr, CHANNELS: tl.constexpr):
    """Both sums of each group from those of its parts."""
    group = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    total = tl.zeros((PARTS, CHANNELS), tl.float64)
    other = tl.zeros((PARTS, CHANNELS), tl.float64)
    for top in range(0, parts, PARTS):
        p = top + tl.arange(0, PARTS)
        inside = (p < parts)[:, None] & real[None, :]
        at = (group * parts + p).to(tl.int64)[:, None] * channels + c[None, :]
        total += tl.load(sums + at, mask=inside, other=0.0).to(tl.float64)
        other += tl.load(products + at, mask=inside, other=0.0).to(tl.float64)
    out = group.to(tl.int64) * channels + c
    tl.store(sum + out, tl.sum(total, 0), mask=real)
    tl.store(product + out, tl.sum(other, 0), mask=real)


@triton.jit
def normalised(
    x, weight, bias, mean, inverse, added, y, rows, blocks, inner, channels,
    LAST: tl.constexpr, BIAS: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    TILES: tl.constexpr, ADDED: tl.constexpr, RECTIFIED: tl.constexpr,
):  # fmt: skip
    """``(x - mean) * inverse * weight + bias`` of TILES tiles of a group, with ``added`` to it, and rectified.

    Rounded after each of the three, as they are on their own.
    """
    group = tl.program_id(0) // blocks
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    of_group = group.to(tl.int64) * channels + c
    about = tl.load(mean + of_group, mask=real, other=0.0)
    scale = tl.load(inverse + of_group, mask=real, other=0.0) * tl.load(weight + c, mask=real, other=0.0)
    shift = _shift(bias, c, real, BIAS, SUM, CHANNELS)
    begin = (tl.program_id(0) % blocks) * (ROWS * TILES)
    for tile in tl.static_range(TILES):
        r = begin + tile * ROWS + tl.arange(0, ROWS)
        inside = (r < rows)[:, None] & real[None, :]
        at = _at(group * rows + r, c, inner, channels, LAST)
        value = tl.load(x + at, mask=inside, other=0.0).to(SUM)
        made = _normal(value, about, scale, shift).to(y.dtype.element_ty)
        if ADDED:
            made = (made.to(SUM) + tl.load(added + at, mask=inside, other=0.0).to(SUM)).to(y.dtype.element_ty)
        if RECTIFIED:
            made = tl.where(made.to(SUM) < 0, 0.0, made.to(SUM)).to(y.dtype.element_ty)
        tl.store(y + at, made, inside)


@triton.jit
def input_gradients(
    grad, x, weight, bias, mean, inverse, sum, product, out, rows, blocks, inner, channels, count,
    LAST: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, TILES: tl.constexpr,
    BIAS: tl.constexpr, RECTIFIED: tl.constexpr,
):  # fmt: skip
    """``weight * inverse * (grad - sum / count - (x - mean) * inverse^2 * product / count)`` of TILES tiles.

    ``RECTIFIED``: ``grad`` counts where the output, made of ``x`` again, is above 0.
    """
    group = tl.program_id(0) // blocks
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    of_group = group.to(tl.int64) * channels + c
    about = tl.load(mean + of_group, mask=real, other=0.0)
    steep = tl.load(inverse + of_group, mask=real, other=0.0)
    scale = steep * tl.load(weight + c, mask=real, other=0.0)
    level = tl.load(sum + of_group, mask=real, other=0.0) / count
    factor = tl.load(product + of_group, mask=real, other=0.0) / count * steep * steep
    if RECTIFIED:
        shift = _shift(bias, c, real, BIAS, SUM, CHANNELS)
    begin = (tl.program_id(0) % blocks) * (ROWS * TILES)
    for tile in tl.static_range(TILES):
        r = begin + tile * ROWS + tl.arange(0, ROWS)
        inside = (r < rows)[:, None] & real[None, :]
        at = _at(group * rows + r, c, inner, channels, LAST)
        slope = tl.load(grad + at, mask=inside, other=0.0).to(SUM)
        value = tl.load(x + at, mask=inside, other=0.0).to(SUM)
        if RECTIFIED:
            slope = tl.where(_normal(value, about, scale, shift).to(x.dtype.element_ty).to(SUM) <= 0, 0.0, slope)
        made = (slope - level[None, :] - (value - about[None, :]) * factor[None, :]) * scale[None, :]
        tl.store(out + at, made.to(out.dtype.element_ty), inside)
