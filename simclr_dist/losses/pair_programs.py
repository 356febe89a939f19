"""Triton programs for sums over pairs of rows: one tile of exp(s_ij), and a rule for what each of its pairs is.

A *rule* is a jit function ``(row, column, first, count) -> (counted, positive)``: of the pairs (row number, column
number), broadcast to a tile, which exponentials are summed, and which pairs attract each other; ``special`` beside it
says of a tile whether it needs the rule at all. :func:`two_views` and :func:`two_views_special` are NT-Xent's.

Rows come as ``row_programs.split`` leaves them: c = z - mean, cut into bfloat16 pieces whose sum it is (two: to 2^-17,
three: to 2^-25 of c), next to each other in memory; so every product is one of bfloat16 tensor cores, with nothing to
convert in a loop. With a_i = mean.z_i and b_j = mean.c_j, both summed in float64,

    z_i.z_j = c_i.c_j + a_i + b_j

and what is common to all pairs when the embeddings collapse (all z nearly the mean) is in no product. In Triton's
interpreter, which cannot multiply bfloat16, the pieces are float32 numbers of the same values.
"""

import triton
import triton.language as tl


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
    """Whether a tile, of which these are the first row and column, holds any pair but negatives."""
    shift = column - row - first
    half = count // 2
    return _meets(shift, ROWS, COLUMNS) | _meets(shift - half, ROWS, COLUMNS) | _meets(shift + half, ROWS, COLUMNS)


@triton.jit
def _meets(shift, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Whether a diagonal crosses a tile that begins ``shift`` columns behind it."""
    return (shift < ROWS) & (shift > -COLUMNS)


@triton.jit
def nearest(x, dtype: tl.constexpr):
    """float32 -> the nearest bfloat16 as ``dtype``; spelt out for the interpreter, whose own conversion truncates."""
    if dtype == tl.bfloat16:
        return x.to(tl.bfloat16)
    else:  # noqa: RET505 - Triton compiles no code behind a return in a branch
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def _load(pieces, numbers, PIECES: tl.constexpr, D: tl.constexpr):
    """Pieces of the rows ``numbers``, the largest first; of two pieces the second also as the third."""
    at = pieces + numbers[:, None] * (PIECES * D) + tl.arange(0, D)[None, :]
    low = tl.load(at + D)
    return tl.load(at), low, (tl.load(at + 2 * D) if PIECES == 3 else low)


@triton.jit
def _similarities(row, column, b, PIECES: tl.constexpr):
    """c_i.c_j + b_j of a tile. Small products come first; those below 2^-17 (two pieces) or 2^-25 are left out."""
    row_high, row_low, row_last = row
    high, low = tl.trans(column[0]), tl.trans(column[1])
    s = tl.dot(row_low, high, input_precision="ieee")
    s = tl.dot(row_high, low, s, input_precision="ieee")
    if PIECES == 3:
        last = tl.trans(column[2])
        s = tl.dot(row_low, low, s, input_precision="ieee")
        s = tl.dot(row_last, high, s, input_precision="ieee")
        s = tl.dot(row_high, last, s, input_precision="ieee")
    s = tl.dot(row_high, high, s, input_precision="ieee")
    return s + b[None, :]


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
    rule: tl.constexpr, special: tl.constexpr, PIECES: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of each row i: the sum of exp(s_ij) over the program's share of the columns, and how many s_ij exceed its own.

    The rows are columns first <= j < first + count. ``a`` is a_j times ``factor``, which is log2(e) / T; ``own`` is
    z_j.z_partner(j) - a_j. Program (k, l) writes the k-th block of row l of both ``parts`` (2, shares, count); nothing
    is added in memory.
    """
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = _load(pieces, first + i, PIECES, D)
    shift = tl.load(a + first + i)[:, None]
    own_s = tl.load(own + first + i)[:, None]
    total = tl.zeros((ROWS,), tl.float32)
    above = tl.zeros((ROWS,), tl.float32)
    begin, end = _share(column_count, COLUMNS)
    for block in range(begin, end):
        j = block * COLUMNS + tl.arange(0, COLUMNS)
        s = _similarities(row, _load(pieces, j, PIECES, D), tl.load(b + j), PIECES)
        e = tl.exp2(s * factor + shift)
        more = s > own_s
        if special(tl.program_id(0) * ROWS, block * COLUMNS, first, count, ROWS, COLUMNS):
            counted, _ = rule(i[:, None], j[None, :], first, count)
            e = tl.where(counted, e, 0.0)
            more = more & counted
        total += tl.sum(e, 1)
        above += tl.sum(more.to(tl.float32), 1)
    out = parts + tl.program_id(1).to(tl.int64) * count + i
    tl.store(out, total, mask=i < count)
    tl.store(out + tl.num_programs(1).to(tl.int64) * count, above, mask=i < count)


@triton.jit
def pair_gradient(
    pieces, a, b, weight, pull, gradient, total, first, count, column_count, factor,
    rule: tl.constexpr, special: tl.constexpr, PIECES: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, SLICE: tl.constexpr,
):  # fmt: skip
    """Of each row i, over the program's share of the columns: sum_j G_ij c_j and sum_j G_ij, where G_ij is

        exp(s_ij) (weight_i + weight_j) of a pair that is counted, pull_i + pull_j of another that is a positive.

    Program (k, l, m) writes the k-th block of row l of ``gradient`` (shares, count, D), of which SLICE columns, and
    (k, l, 0) that of ``total`` (shares, count). The rest is as in :func:`pair_sums`.
    """
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = i < count
    row = _load(pieces, first + i, PIECES, D)
    shift = tl.load(a + first + i)
    row_w = tl.load(weight + first + i, mask=inside, other=0.0)
    row_p = tl.load(pull + first + i, mask=inside, other=0.0)
    d = tl.program_id(2) * SLICE + tl.arange(0, SLICE)
    sums = tl.zeros((ROWS, SLICE), tl.float32)
    whole = tl.zeros((ROWS,), tl.float32)
    begin, end = _share(column_count, COLUMNS)
    for block in range(begin, end):
        j = block * COLUMNS + tl.arange(0, COLUMNS)
        column = _load(pieces, j, PIECES, D)
        s = _similarities(row, column, tl.load(b + j), PIECES)
        column_w = tl.load(weight + j, mask=j < column_count, other=0.0)
        g = tl.exp2(s * factor + shift[:, None]) * (row_w[:, None] + column_w[None, :])
        if special(tl.program_id(0) * ROWS, block * COLUMNS, first, count, ROWS, COLUMNS):
            column_p = tl.load(pull + j, mask=j < column_count, other=0.0)
            counted, positive = rule(i[:, None], j[None, :], first, count)
            g = tl.where(counted, g, tl.where(positive, row_p[:, None] + column_p[None, :], 0.0))
        whole += tl.sum(g, 1)
        high, low = column[0], column[1]
        g_high = nearest(g, high.dtype)
        g_low = nearest(g - g_high.to(tl.float32), high.dtype)
        if SLICE != D:
            at = pieces + j[:, None] * (PIECES * D) + d[None, :]
            high, low = tl.load(at), tl.load(at + D)
        part = tl.dot(g_low, high, input_precision="ieee")
        part = tl.dot(g_high, low, part, input_precision="ieee")
        part = tl.dot(g_high, high, part, input_precision="ieee")
        # Added here and not by the tensor cores, which round towards zero (Ootomo and Yokota 2022, arXiv 2203.03341):
        # over thousands of columns that is a drift.
        sums += part
    out = tl.program_id(1).to(tl.int64) * count + i
    tl.store(gradient + out[:, None] * D + d[None, :], sums, mask=inside[:, None])
    tl.store(total + out, whole, mask=inside & (tl.program_id(2) == 0))
