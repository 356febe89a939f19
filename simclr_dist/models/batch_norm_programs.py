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
    grad, x, mean, sums, products, rows, part, parts, inner, channels,
    LAST: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of ``grad`` and of ``grad * (x - mean)`` over ``part`` rows of a group, each (groups * parts, channels)."""
    group = tl.program_id(0) // parts
    begin = (tl.program_id(0) % parts) * part
    end = tl.minimum(begin + part, rows)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    about = tl.load(mean + group.to(tl.int64) * channels + c, mask=real, other=0.0)
    total = tl.zeros((ROWS, CHANNELS), SUM)
    product = tl.zeros((ROWS, CHANNELS), SUM)
    for top in range(begin, end, ROWS):
        r = top + tl.arange(0, ROWS)
        inside = (r < end)[:, None] & real[None, :]
        at = _at(group * rows + r, c, inner, channels, LAST)
        slope = tl.load(grad + at, mask=inside, other=0.0).to(SUM)
        value = tl.load(x + at, mask=inside, other=0.0).to(SUM)
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
    x, weight, bias, mean, inverse, y, rows, blocks, inner, channels,
    LAST: tl.constexpr, BIAS: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    """``(x - mean) * inverse * weight + bias`` of TILES tiles of a group."""
    group = tl.program_id(0) // blocks
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    of_group = group.to(tl.int64) * channels + c
    about = tl.load(mean + of_group, mask=real, other=0.0)
    scale = tl.load(inverse + of_group, mask=real, other=0.0) * tl.load(weight + c, mask=real, other=0.0)
    if BIAS:  # noqa: SIM108 - Triton compiles one of the two, by a constant
        shift = tl.load(bias + c, mask=real, other=0.0)
    else:
        shift = tl.zeros((CHANNELS,), SUM)
    begin = (tl.program_id(0) % blocks) * (ROWS * TILES)
    for tile in tl.static_range(TILES):
        r = begin + tile * ROWS + tl.arange(0, ROWS)
        inside = (r < rows)[:, None] & real[None, :]
        at = _at(group * rows + r, c, inner, channels, LAST)
        value = tl.load(x + at, mask=inside, other=0.0).to(SUM)
        tl.store(y + at, ((value - about[None, :]) * scale[None, :] + shift[None, :]).to(y.dtype.element_ty), inside)


@triton.jit
def input_gradients(
    grad, x, weight, mean, inverse, sum, product, out, rows, blocks, inner, channels, count,
    LAST: tl.constexpr, SUM: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """``weight * inverse * (grad - sum / count - (x - mean) * inverse^2 * product / count)`` of TILES tiles."""
    group = tl.program_id(0) // blocks
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    real = c < channels
    of_group = group.to(tl.int64) * channels + c
    about = tl.load(mean + of_group, mask=real, other=0.0)
    steep = tl.load(inverse + of_group, mask=real, other=0.0)
    scale = steep * tl.load(weight + c, mask=real, other=0.0)
    level = tl.load(sum + of_group, mask=real, other=0.0) / count
    factor = tl.load(product + of_group, mask=real, other=0.0) / count * steep * steep
    begin = (tl.program_id(0) % blocks) * (ROWS * TILES)
    for tile in tl.static_range(TILES):
        r = begin + tile * ROWS + tl.arange(0, ROWS)
        inside = (r < rows)[:, None] & real[None, :]
        at = _at(group * rows + r, c, inner, channels, LAST)
        slope = tl.load(grad + at, mask=inside, other=0.0).to(SUM)
        value = tl.load(x + at, mask=inside, other=0.0).to(SUM)
        made = (slope - level[None, :] - (value - about[None, :]) * factor[None, :]) * scale[None, :]
        tl.store(out + at, made.to(out.dtype.element_ty), inside)
