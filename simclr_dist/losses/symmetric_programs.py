"""Triton programs for sums over all pairs of one process's rows: each tile serves its rows and its columns.

s_ij = s_ji, so where the rows are the columns too, half of the tiles of ``pair_programs.pair_sums`` do. A program has a
block of rows and half a turn of the others, counted from its own: block k meets k, k + 1, ... k + n // 2, modulo n.
What a tile adds to its columns' rows goes to a place of its own in memory, and :func:`fold` adds these in one order:
no atomics, so the same bits again. ``across`` takes n / 2 numbers a row: ``pair_kernel`` goes this way while that is no
more than the rows themselves.
"""

import triton
import triton.language as tl

from simclr_dist.losses.pair_programs import load_pieces, products_of


@triton.jit
def _of_threads(tile):
    """(rows, 4): of a tile (rows, columns) the sums of the columns that one thread has in a product of tensor cores,
    two of every eight, so that nothing goes from thread to thread."""
    ROWS: tl.constexpr = tile.shape[0]
    return tl.sum(tl.sum(tl.reshape(tile, (ROWS, tile.shape[1] // 8, 4, 2)), 3), 1)


@triton.jit
def _bytes():
    """(1, 2, 1, 2): by how many bits a column's count is shifted, by its place among sixteen; four share a number."""
    of_eight = tl.arange(0, 2)[None, :, None, None]
    of_two = tl.arange(0, 2)[None, None, None, :]
    return 8 * (2 * of_eight + of_two)


@triton.jit
def _counts(met, byte):
    """Of a tile of bits (rows, columns), at most 255 rows, how many of each column are set, float32.

    The four columns in a thread's hand go through the threads as the bytes of one number.
    """
    ROWS: tl.constexpr = met.shape[0]
    COLUMNS: tl.constexpr = met.shape[1]
    ones = tl.reshape(met.to(tl.int32), (ROWS, COLUMNS // 16, 2, 4, 2)) << byte[None]
    packed = tl.sum(tl.sum(tl.sum(ones, 4), 2), 0)
    counts = (packed[:, None, :, None] >> byte) & 255
    return tl.reshape(counts, (COLUMNS,)).to(tl.float32)


@triton.jit
def half_sums(
    pieces, a, b, own, parts, across, count, factor,
    rule: tl.constexpr, special: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of each row i: the sum of exp(s_ij) and how many s_ij exceed its own, as ``pair_programs.pair_sums`` has them.

    Program (k, l) has the l-th share of what block k, of ROWS, meets, COLUMNS at a time. It writes its rows' sums over
    it to ``parts`` (2, shares, count), and the columns' over its rows to ``across`` (2, (n - 1) // 2, count), where the
    line is how many blocks on the column's is. Its own block and, of an even n, that half a turn away are met from both
    sides: they have none.
    """
    blocks = tl.cdiv(count, ROWS)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = load_pieces(pieces, i, D)
    # -inf beyond the rows, too, as b is beyond the columns: such pairs are exp(-inf) = 0 from both sides.
    shift = tl.where(i < count, tl.load(a + i), float("-inf"))[:, None]
    row_own = tl.load(own + i)[:, None]
    row_b = tl.load(b + i)[:, None]
    total = tl.zeros((ROWS, 4), tl.float32)
    above = tl.zeros((ROWS, 4), tl.int32)
    byte = _bytes()
    TILES: tl.constexpr = ROWS // COLUMNS
    met = (blocks // 2 + 1) * TILES
    share = tl.cdiv(met, tl.num_programs(1))
    begin = tl.program_id(1) * share
    lines = (blocks - 1) // 2
    for tile in range(begin, tl.minimum(begin + share, met)):
        on = tile // TILES
        start = (tl.program_id(0) + on) % blocks * ROWS + tile % TILES * COLUMNS
        j = start + tl.arange(0, COLUMNS)
        common = products_of(row, load_pieces(pieces, j, D))
        if special(tl.program_id(0) * ROWS, start, 0, count, ROWS, COLUMNS):
            counted, _ = rule(i[:, None], j[None, :], 0, count)
            common = tl.where(counted, common, float("-inf"))  # exp(-inf) = 0, and above nothing
        s = common + tl.load(b + j)[None, :]
        e = tl.exp2(s * factor + shift)
        more = s > row_own
        column_more = common + row_b > tl.load(own + j)[None, :]
        total += _of_threads(e)
        above += _of_threads(more.to(tl.int32))
        if (on > 0) & (on <= lines):
            out = across + (on - 1) * count + j
            tl.store(out, tl.sum(e, 0), mask=j < count)
            tl.store(out + lines * count, _counts(column_more, byte), mask=j < count)
    out = parts + tl.program_id(1) * count + i
    tl.store(out, tl.sum(total, 1), mask=i < count)
    tl.store(out + tl.num_programs(1) * count, tl.sum(above, 1).to(tl.float32), mask=i < count)


@triton.jit
def fold(parts, across, sums, count, shares, lines, BLOCK: tl.constexpr, LINES: tl.constexpr):
    """``sums`` (2, count): what :func:`half_sums` wrote of each row in both its arrays, added in one order."""
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = j < count
    which = tl.program_id(1)
    total = tl.zeros((BLOCK,), tl.float32)
    for share in range(shares):
        total += tl.load(parts + (which * shares + share) * count + j, mask=inside, other=0.0)
    added = tl.zeros((LINES, BLOCK), tl.float32)
    for begin in range(0, lines, LINES):
        line = begin + tl.arange(0, LINES)[:, None]
        at = across + (which * lines + line) * count + j[None, :]
        added += tl.load(at, mask=(line < lines) & inside[None, :], other=0.0)
    tl.store(sums + which * count + j, total + tl.sum(added, 0), mask=inside)
