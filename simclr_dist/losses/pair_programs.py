"""Triton programs for sums over pairs of rows: one tile of exp(s_ij), and a rule for what each of its pairs is.

A *rule* is a jit function ``(row, column, facts) -> (counted, positive)``: of the pairs (row number, column number),
broadcast to a tile, which exponentials are summed, and which pairs attract each other. ``facts`` is the tuple that the
rule reads: numbers, or pointers to labels. :func:`two_views` is NT-Xent's.

Rows come as :func:`split` leaves them: c = z - mean, cut into bfloat16 pieces whose sum it is (two: to 2^-17, three: to
2^-25 of c), next to each other in memory; so every product is one of bfloat16 tensor cores, with nothing to convert in
a loop. With a_i = mean.z_i and b_j = mean.c_j, both summed in float64,

    z_i.z_j = c_i.c_j + a_i + b_j

and what is common to all pairs when the embeddings collapse (all z nearly the mean) is in no product. In Triton's
interpreter, which cannot multiply bfloat16, the pieces are float32 numbers of the same values.
"""

import triton
import triton.language as tl


@triton.jit
def two_views(row, column, facts):
    """NT-Xent: all are negatives but the row itself and the other view of its image, which is the positive.

    ``facts``: where the rows of a process begin among the columns, and how many they are, view 1 before view 2.
    """
    first, count = facts
    half = count // 2
    positive = column == first + tl.where(row < half, row + half, row - half)
    return (column != first + row) & ~positive, positive


@triton.jit
def _nearest(x, dtype: tl.constexpr):
    """float32 -> the nearest bfloat16 as ``dtype``; spelt out for the interpreter, whose own conversion truncates."""
    if dtype == tl.bfloat16:
        return x.to(tl.bfloat16)
    else:  # noqa: RET505 - Triton compiles no code behind a return in a branch
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def split(rows, mean, pieces, a, b, count, dim, PIECES: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    """Rows (count, dim) -> pieces (padded count, PIECES, D) of c = z - mean, a (float64) = mean.z and b = mean.c.

    What pads has pieces 0 and b = -inf: exponentials 0.
    """
    r = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    inside = (r < count)[:, None] & (d < dim)[None, :]
    z = tl.load(rows + r.to(tl.int64)[:, None] * dim + d[None, :], mask=inside, other=0.0)
    m = tl.load(mean + d, mask=d < dim, other=0.0)
    rest = tl.where(inside, z - m[None, :], 0.0)
    wide = m.to(tl.float64)[None, :]
    along = tl.sum(wide * rest.to(tl.float64), 1)
    tl.store(b + r, tl.where(r < count, along.to(tl.float32), float("-inf")))
    tl.store(a + r, tl.sum(wide * z.to(tl.float64), 1))
    at = pieces + r.to(tl.int64)[:, None] * (PIECES * D) + d[None, :]
    for piece in tl.static_range(PIECES):
        part = _nearest(rest, pieces.dtype.element_ty)
        tl.store(at + piece * D, part)
        rest -= part.to(tl.float32)


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
    row_pieces, row_a, own, pieces, b, negatives, rank, count, column_count, factor, facts,
    rule: tl.constexpr, PIECES: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of each row i: the sum of exp(s_ij) over the program's share of the columns, and how many s_ij exceed its own.

    ``row_a`` is a_i times ``factor``, which is log2(e) / T; ``own`` is z_i.z_pos(i) - a_i. Program (k, l) writes the
    k-th block of row l of ``negatives`` and ``rank`` (shares, count); nothing is added in memory.
    """
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = i < count
    row = _load(row_pieces, i, PIECES, D)
    shift = tl.load(row_a + i, mask=inside, other=0.0)
    own_s = tl.load(own + i, mask=inside, other=0.0)
    total = tl.zeros((ROWS,), tl.float32)
    above = tl.zeros((ROWS,), tl.float32)
    begin, end = _share(column_count, COLUMNS)
    for block in range(begin, end):
        j = block * COLUMNS + tl.arange(0, COLUMNS)
        s = _similarities(row, _load(pieces, j, PIECES, D), tl.load(b + j), PIECES)
        counted, _ = rule(i[:, None], j[None, :], facts)
        total += tl.sum(tl.where(counted, tl.exp2(s * factor + shift[:, None]), 0.0), 1)
        above += tl.sum(tl.where(counted & (s > own_s[:, None]), 1.0, 0.0), 1)
    out = tl.program_id(1).to(tl.int64) * count + i
    tl.store(negatives + out, total, mask=inside)
    tl.store(rank + out, above, mask=inside)


@triton.jit
def pair_gradient(
    row_pieces, row_a, row_weight, row_pull, pieces, b, weight, pull, gradient, total, count, column_count, factor,
    facts, rule: tl.constexpr, PIECES: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    SLICE: tl.constexpr,
):  # fmt: skip
    """Of each row i, over the program's share of the columns: sum_j G_ij c_j and sum_j G_ij, where G_ij is

        exp(s_ij) (weight_i + weight_j) of a pair that is counted, pull_i + pull_j of another that is a positive.

    Program (k, l, m) writes the k-th block of row l of ``gradient`` (shares, count, D), of which SLICE columns, and of
    ``total`` (slices, shares, count).
    """
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = i < count
    row = _load(row_pieces, i, PIECES, D)
    shift = tl.load(row_a + i, mask=inside, other=0.0)
    row_w = tl.load(row_weight + i, mask=inside, other=0.0)
    row_p = tl.load(row_pull + i, mask=inside, other=0.0)
    d = tl.program_id(2) * SLICE + tl.arange(0, SLICE)
    sums = tl.zeros((ROWS, SLICE), tl.float32)
    whole = tl.zeros((ROWS,), tl.float32)
    begin, end = _share(column_count, COLUMNS)
    for block in range(begin, end):
        j = block * COLUMNS + tl.arange(0, COLUMNS)
        column = _load(pieces, j, PIECES, D)
        s = _similarities(row, column, tl.load(b + j), PIECES)
        column_w = tl.load(weight + j, mask=j < column_count, other=0.0)
        column_p = tl.load(pull + j, mask=j < column_count, other=0.0)
        counted, positive = rule(i[:, None], j[None, :], facts)
        g = tl.exp2(s * factor + shift[:, None]) * (row_w[:, None] + column_w[None, :])
        g = tl.where(counted, g, tl.where(positive, row_p[:, None] + column_p[None, :], 0.0))
        whole += tl.sum(g, 1)
        high, low = column[0], column[1]
        g_high = _nearest(g, high.dtype)
        g_low = _nearest(g - g_high.to(tl.float32), high.dtype)
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
    tl.store(total + tl.program_id(2) * tl.num_programs(1) * count + out, whole, mask=inside)
