"""Triton programs for sums over pairs of rows: one tile of exp(s_ij), and a rule for what each of its pairs is.

A *rule* is a jit function ``(row, column, first, count) -> (counted, positive)``: of the pairs (row number, column
number), broadcast to a tile, which exponentials are summed, and which pairs attract each other; ``special`` beside it
says of a tile whether it needs the rule at all. :func:`two_views` and :func:`two_views_special` are NT-Xent's.

Rows come as ``row_programs.split`` leaves them: c = z - mean, times SCALE, cut into two float16 pieces whose sum it is
to 2^-22, next to each other in memory; so every product is one of float16 tensor cores, with nothing to convert in a
loop. Three products, without that of the two small pieces, are as exact as float32's (Ootomo and Yokota 2022, arXiv
2203.03341). With a_i = mean.z_i and b_j = mean.c_j, both summed in float64,

    z_i.z_j = c_i.c_j + a_i + b_j

and what is common to all pairs when the embeddings collapse (all z nearly the mean) is in no product.
"""

import triton
import triton.language as tl

SCALE = tl.constexpr(1024.0)
"""Of the pieces: |c| <= 2, and a small piece of 2^-12 of that is not yet below float16's smallest normal 2^-14."""


@triton.jit
def partner(row, count):
    """The other view of the image: the rows are of processes with ``count`` each, view 1 before view 2."""
    local = row % count
    half = count // 2
    return row + tl.where(local < half, half, -half)


@triton.jit
def two_views(row, column, first, count):
    """NT-Xent: all are negatives but the row itself and the other view of its image, which is the positive.

    The rows are those of a process, ``count``, of which the first is column ``first``.
    """
    positive = column == first + partner(row, count)
    return (column != first + row) & ~positive, positive


@triton.jit
def two_views_special(row, column, first, count, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Whether a tile, of which these are the first row and column, meets the diagonal or one of the positives."""
    shift = column - row - first
    half = count // 2
    upper, lower = shift - half, shift + half
    met = (shift < ROWS) & (shift > -COLUMNS)
    return met | ((upper < ROWS) & (upper > -COLUMNS)) | ((lower < ROWS) & (lower > -COLUMNS))


@triton.jit
def load_pieces(pieces, numbers, D: tl.constexpr):
    """Both pieces of the rows ``numbers``, the larger first."""
    at = pieces + numbers[:, None] * (2 * D) + tl.arange(0, D)[None, :]
    return tl.load(at), tl.load(at + D)


@triton.jit
def _product(of_high, of_low, high, low):
    """The product of two matrices in pieces, but for that of the small ones; small products come first."""
    s = tl.dot(of_low, high, input_precision="ieee")
    s = tl.dot(of_high, low, s, input_precision="ieee")
    return tl.dot(of_high, high, s, input_precision="ieee")


@triton.jit
def products_of(row, column):
    """c_i.c_j of a tile, of its rows' and its columns' pieces."""
    return _product(row[0], row[1], tl.trans(column[0]), tl.trans(column[1])) * (1 / SCALE / SCALE)


@triton.jit
def _share(column_count, COLUMNS: tl.constexpr):
    """The first and the end of the column blocks that this program sums."""
    blocks = tl.cdiv(column_count, COLUMNS)
    share = tl.cdiv(blocks, tl.num_programs(1))
    begin = tl.program_id(1) * share
    return begin, tl.minimum(begin + share, blocks)


@triton.jit
def pair_sums(
    pieces, a, b, own, parts, first, count, column_count, factor,
    rule: tl.constexpr, special: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of each row i: the sum of exp(s_ij) over the program's share of the columns, and how many s_ij exceed its own.

    The rows are columns first <= j < first + count. ``a`` is a_j times ``factor``, which is log2(e) / T; ``own`` is
    z_j.z_partner(j) - a_j. Program (k, l) writes the k-th block of row l of both ``parts`` (2, shares, count); nothing
    is added in memory.
    """
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = load_pieces(pieces, first + i, D)
    shift = tl.load(a + first + i)[:, None]
    own_s = tl.load(own + first + i)[:, None]
    # As wide as a tile: across its columns they are summed once, at the end.
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    above = tl.zeros((ROWS, COLUMNS), tl.float32)
    begin, end = _share(column_count, COLUMNS)
    for block in range(begin, end):
        j = block * COLUMNS + tl.arange(0, COLUMNS)
        s = products_of(row, load_pieces(pieces, j, D)) + tl.load(b + j)[None, :]
        if special(tl.program_id(0) * ROWS, block * COLUMNS, first, count, ROWS, COLUMNS):
            counted, _ = rule(i[:, None], j[None, :], first, count)
            s = tl.where(counted, s, float("-inf"))  # exp(-inf) = 0, and above nothing
        total += tl.exp2(s * factor + shift)
        above += (s > own_s).to(tl.float32)
    out = parts + tl.program_id(1).to(tl.int64) * count + i
    tl.store(out, tl.sum(total, 1), mask=i < count)
    tl.store(out + tl.num_programs(1).to(tl.int64) * count, tl.sum(above, 1), mask=i < count)


@triton.jit
def _scaled(numbers, at, inside, scale):
    """Finite, so that nothing times it is nothing."""
    return tl.minimum(tl.load(numbers + at, mask=inside, other=0.0) * scale, 1e37)


@triton.jit
def pair_gradient(
    pieces, a, b, weight, pull, largest, gradient, total, first, count, column_count, factor,
    rule: tl.constexpr, special: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SLICE: tl.constexpr,
):  # fmt: skip
    """Of each row i, over the program's share of the columns: sum_j G_ij c_j and sum_j G_ij, where G_ij is

        exp(s_ij) (weight_i + weight_j) of a pair that is counted, pull_i + pull_j of another that is a positive.

    ``largest`` is the largest -pull. Program (k, l, m) writes the k-th block of row l of ``gradient`` (shares, count,
    D), of which SLICE columns, and (k, l, 0) that of ``total`` (shares, count). The rest is as in :func:`pair_sums`.
    """
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = i < count
    row = load_pieces(pieces, first + i, D)
    shift = tl.load(a + first + i)
    # float16 ends at 65504, and |G| <= 2 ``largest``; its digits end early below 2^-14.
    scale = 16384 / tl.maximum(tl.load(largest), 1e-30)
    row_w = _scaled(weight, first + i, inside, scale)
    row_p = _scaled(pull, first + i, inside, scale)
    d = tl.program_id(2) * SLICE + tl.arange(0, SLICE)
    sums = tl.zeros((ROWS, SLICE), tl.float32)
    whole = tl.zeros((ROWS,), tl.float32)
    begin, end = _share(column_count, COLUMNS)
    for block in range(begin, end):
        j = block * COLUMNS + tl.arange(0, COLUMNS)
        column = load_pieces(pieces, j, D)
        s = products_of(row, column) + tl.load(b + j)[None, :]
        column_w = _scaled(weight, j, j < column_count, scale)
        g = tl.exp2(s * factor + shift[:, None]) * (row_w[:, None] + column_w[None, :])
        if special(tl.program_id(0) * ROWS, block * COLUMNS, first, count, ROWS, COLUMNS):
            column_p = _scaled(pull, j, j < column_count, scale)
            counted, positive = rule(i[:, None], j[None, :], first, count)
            g = tl.where(counted, g, tl.where(positive, row_p[:, None] + column_p[None, :], 0.0))
        whole += tl.sum(g, 1)
        high, low = column[0], column[1]
        g_high = g.to(tl.float16)
        g_low = (g - g_high.to(tl.float32)).to(tl.float16)
        if SLICE != D:
            at = pieces + j[:, None] * (2 * D) + d[None, :]
            high, low = tl.load(at), tl.load(at + D)
        # Added here and not by the tensor cores, which round towards zero (Ootomo and Yokota 2022, arXiv 2203.03341):
        # over thousands of columns that is a drift.
        sums += _product(g_high, g_low, high, low)
    out = tl.program_id(1).to(tl.int64) * count + i
    tl.store(gradient + out[:, None] * D + d[None, :], sums / (scale * SCALE), mask=inside[:, None])
    tl.store(total + out, whole / scale, mask=inside & (tl.program_id(2) == 0))
