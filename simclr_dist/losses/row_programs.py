"""Triton programs over rows, before, between and after the two over pairs (``pair_programs.py``).

What torch does in some sixty operations of a few numbers a row each is five programs here: on a GPU such an operation
takes a few microseconds, and the host needs more than that to start it.
"""

import triton
import triton.language as tl

from simclr_dist.losses.pair_programs import SCALE, partner


@triton.jit
def _rows_at(numbers, count, dim, D: tl.constexpr):
    """Where the rows ``numbers`` of a matrix (count, dim) lie, and which of D numbers of them are in it."""
    d = tl.arange(0, D)[None, :]
    return numbers[:, None].to(tl.int64) * dim + d, (numbers[:, None] < count) & (d < dim)


@triton.jit
def normalise(raw, rows, norm, count, dim, SMALLEST: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    """Unit rows, divided in float64 and rounded once, and the norms (count,), at least SMALLEST."""
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at, inside = _rows_at(r, count, dim, D)
    x = tl.load(raw + at, mask=inside, other=0.0).to(tl.float64)
    length = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), SMALLEST)
    tl.store(rows + at, (x / length[:, None]).to(tl.float32), mask=inside)
    tl.store(norm + r, length.to(tl.float32), mask=r < count)


@triton.jit
def moments(rows, parts, count, dim, D: tl.constexpr, BLOCK: tl.constexpr):
    """Of every number of the rows, its sum and its squares' sum, float64: ``parts`` (programs, 2, D), to be added."""
    first = tl.zeros((D,), tl.float64)
    second = tl.zeros((D,), tl.float64)
    for block in range(tl.program_id(0), tl.cdiv(count, BLOCK), tl.num_programs(0)):
        at, inside = _rows_at(block * BLOCK + tl.arange(0, BLOCK), count, dim, D)
        z = tl.load(rows + at, mask=inside, other=0.0).to(tl.float64)
        first += tl.sum(z, 0)
        second += tl.sum(z * z, 0)
    out = parts + tl.program_id(0) * 2 * D + tl.arange(0, D)
    tl.store(out, first)
    tl.store(out + D, second)


@triton.jit
def _added(parts, which: tl.constexpr, PARTS: tl.constexpr, D: tl.constexpr):
    """The sum over the parts of :func:`moments`' first or second."""
    total = tl.zeros((D,), tl.float64)
    for part in range(0, PARTS, 8):
        at = (part + tl.arange(0, 8))[:, None] * 2 * D + which * D + tl.arange(0, D)[None, :]
        total += tl.sum(tl.load(parts + at), 0)
    return total


@triton.jit
def split(
    rows, parts, pieces, a, b, own, positive, mean, spread, count, dim, own_count, factor,
    PARTS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Cuts c = z - mean of the rows (count, dim) into ``pieces`` (padded, 2, D), float16 (times SCALE).

    Of each row a = mean.z, b = mean.c (-inf beyond the rows: pairs with them are exp(-inf) = 0), ``own`` =
    z.z_positive - a and ``positive`` = exp(z.z_positive / T), all summed in float64; ``a`` is stored times ``factor``,
    log2(e) / T in float32: with the same one in a row's positive and its negatives its rounding hardly shows in their
    ratio. And ``mean`` (D) itself, float32, and ``spread``: embedding_std.
    """
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at, inside = _rows_at(r, count, dim, D)
    m = (_added(parts, 0, PARTS, D) / count).to(tl.float32)
    if tl.program_id(0) == tl.num_programs(0) - 1:  # whose own rows are all beyond, so that nobody waits for it
        exact = _added(parts, 0, PARTS, D) / count
        variance = tl.maximum(_added(parts, 1, PARTS, D) / count - exact * exact, 0.0)
        tl.store(mean + tl.arange(0, D), m)
        # The mean of the deviations, times sqrt(dim).
        tl.store(spread, tl.sum(tl.sqrt(variance / dim), 0).to(tl.float32))
    z = tl.load(rows + at, mask=inside, other=0.0)
    rest = tl.where(inside, z - m[None, :], 0.0)
    wide = m.to(tl.float64)[None, :]
    along = tl.sum(wide * rest.to(tl.float64), 1)
    tl.store(b + r, tl.where(r < count, along.to(tl.float32), float("-inf")))
    row_a = tl.sum(wide * z.to(tl.float64), 1)
    tl.store(a + r, (row_a * factor).to(tl.float32))
    other, _ = _rows_at(partner(r, own_count), count, dim, D)
    similarity = tl.sum(z.to(tl.float64) * tl.load(rows + other, mask=inside, other=0.0).to(tl.float64), 1)
    tl.store(own + r, (similarity - row_a).to(tl.float32))
    tl.store(positive + r, tl.exp2(similarity * factor).to(tl.float32))
    out = pieces + r.to(tl.int64)[:, None] * (2 * D) + tl.arange(0, D)[None, :]
    high = (rest * SCALE).to(tl.float16)
    tl.store(out, high)
    tl.store(out + D, (rest * SCALE - high.to(tl.float32)).to(tl.float16))


@triton.jit
def weigh(
    parts, positive, weight, pull, largest, loss, shown, column_count, count, shares, BLOCK: tl.constexpr
):  # fmt: skip
    """From all columns' sums to the loss and what the gradient needs; one program, so that a sum has one order.

    ``parts`` (processes, 2, shares, count): what :func:`pair_sums` wrote. Of each column ``weight`` =
    1 / (positive + negatives) and ``pull`` = p_positive - 1, without cancellation; ``largest`` -pull; ``loss`` float32,
    and ``shown`` (3) float64: the shares of rows with rank 0 and below 5, and the mean rank.
    """
    losses = tl.zeros((BLOCK,), tl.float64)
    most = tl.zeros((BLOCK,), tl.float32)
    ranks = tl.zeros((BLOCK,), tl.float64)
    first = tl.zeros((BLOCK,), tl.float64)
    fifth = tl.zeros((BLOCK,), tl.float64)
    for block in range(tl.cdiv(column_count, BLOCK)):
        j = block * BLOCK + tl.arange(0, BLOCK)
        inside = j < column_count
        at = parts + (j // count).to(tl.int64) * 2 * shares * count + j % count
        negatives = tl.zeros((BLOCK,), tl.float32)
        rank = tl.zeros((BLOCK,), tl.float32)
        for share in range(shares):
            negatives += tl.load(at + share * count, mask=inside, other=0.0)
            rank += tl.load(at + (shares + share) * count, mask=inside, other=0.0)
        pair = tl.load(positive + j, mask=inside, other=1.0)
        w = 1 / (pair + negatives)
        tl.store(weight + j, w, mask=inside)
        tl.store(pull + j, -negatives * w, mask=inside)
        most = tl.maximum(most, negatives * w)
        # log1p(ratio), by Kahan's formula: what 1 + ratio rounds away comes back with the quotient.
        ratio = negatives.to(tl.float64) / pair.to(tl.float64)
        more = 1 + ratio
        lost = more == 1
        losses += tl.where(lost, ratio, tl.log(more) * (ratio / tl.where(lost, 1.0, more - 1)))
        ranks += rank.to(tl.float64)
        first += (inside & (rank < 1)).to(tl.float64)
        fifth += (inside & (rank < 5)).to(tl.float64)
    tl.store(largest, tl.max(most, 0))
    tl.store(loss, (tl.sum(losses, 0) / column_count).to(tl.float32))
    tl.store(shown, tl.sum(first, 0) / column_count)
    tl.store(shown + 1, tl.sum(fifth, 0) / column_count)
    tl.store(shown + 2, tl.sum(ranks, 0) / column_count)


@triton.jit
def finish(
    parts, totals, mean, rows, norm, grad_loss, gradient, first, count, dim, shares, factor,
    D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of the rows first <= i < first + count before they were normalised, times ``factor`` * grad_loss.

    sum_j G_ij z_j = sum_j G_ij c_j + mean * sum_j G_ij, from :func:`pair_gradient`'s ``parts`` (shares, count, D) and
    ``totals`` (shares, count); and through z = x / |x|, where what is along z is lost.
    """
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at, inside = _rows_at(r, count, dim, D)
    total = tl.zeros((BLOCK,), tl.float32)
    g = tl.zeros((BLOCK, D), tl.float32)
    for share in range(shares):
        line = r.to(tl.int64) + share * count
        total += tl.load(totals + line, mask=r < count, other=0.0)
        g += tl.load(parts + line[:, None] * D + tl.arange(0, D)[None, :], mask=inside, other=0.0)
    g += total[:, None] * tl.load(mean + tl.arange(0, D))[None, :]
    z = tl.load(rows + first.to(tl.int64) * dim + at, mask=inside, other=0.0)
    g -= tl.sum(g * z, 1)[:, None] * z
    scale = tl.load(grad_loss) * factor / tl.load(norm + r, mask=r < count, other=1.0)
    tl.store(gradient + at, g * scale[:, None], mask=inside)
