"""Sums over pairs of rows, tile by tile: O(rows * d) memory, never the matrix of similarities.

Both passes walk the same tiles of exp(z_i.z_j / T). Among the process's own rows a tile above the diagonal serves its
mirror image too. A tile is written once and worked on in place; at 768 x 768 it stays in a core's cache. Sums are
products with ones: reductions of a library cost more than that.

No shift is subtracted before the exponential: |z_i.z_j / T| <= 1/T, and up to 1/T = 60 both e^60 * 2B and e^-60 are
well inside float32. Beyond, tiles are float64: to 1/T = 500, the most that a recipe takes, for any batch; at 1/T = 700,
the most that the losses take, 2B e^700 overflows from 17,700 rows on, if they are all alike (see
docs/design/streaming_loss.md).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FLOAT32_LIMIT = 60.0
"""The largest 1/T whose exponentials are summed in float32 without a shift."""
_CPU_TILE, _DEVICE_TILE = 768, 4352


@dataclass
class PairSums:
    """What the forward pass finds for each of this process's rows, and what the backward pass needs again."""

    negatives: Tensor
    """sum over j != i, pos(i) of exp(s_ij)."""
    positives: Tensor
    """exp(s_i,pos(i))."""
    rank: Tensor
    """How many negatives are more similar than the positive."""


def positive_similarities(rows: Tensor) -> Tensor:
    """z_i.z_pos(i) of unit rows (count, d), view 1 before view 2, in float64.

    Its error is that of exp(s) times T, and the loss is a ratio to exp(s).
    """
    found = [
        torch.linalg.vecdot(one.double(), other.double())
        for one, other in zip(*(half.split(4096) for half in rows.chunk(2)), strict=True)
    ]
    return torch.cat(found).repeat(2)


class Products:
    """exp(x_i.y_j / T) of rows x and columns y, a tile at a time, whatever pairs are asked for.

    Args:
        rows: unit rows, (n, d).
        columns: unit rows, (N, d).
        temperature: T.
    """

    def __init__(self, rows: Tensor, columns: Tensor, temperature: float) -> None:
        self.wide = columns.dtype == torch.float32 and 1 / temperature > FLOAT32_LIMIT
        # The product takes this factor for nothing and is s_ij in base 2 then; exp2 takes half of exp's time on a CPU.
        self.factor = math.log2(math.e) / temperature
        self.rows, self.columns = (each.double() if self.wide else each for each in (rows, columns))
        self.temperature = temperature
        self.tile = min(max(len(rows), len(columns)), _CPU_TILE if columns.device.type == "cpu" else _DEVICE_TILE)

    def buffer(self, dtype: torch.dtype | None = None) -> Tensor:
        """Room for the numbers of a tile; :meth:`shaped` gives it a tile's shape."""
        return self.rows.new_empty(self.tile * self.tile, dtype=dtype)

    @staticmethod
    def shaped(buffer: Tensor, i: slice, j: slice) -> Tensor:
        """The first numbers of a buffer as a tile of rows i and columns j."""
        rows, columns = i.stop - i.start, j.stop - j.start
        return buffer[: rows * columns].view(rows, columns)

    def pairs(self, i: slice, j: slice, buffer: Tensor) -> Tensor:
        """exp(s) of rows i and columns j, in the buffer."""
        tile = self.shaped(buffer, i, j)
        return torch.addmm(tile, self.rows[i], self.columns[j].T, beta=0, alpha=self.factor, out=tile).exp2_()

    def blocks(self, begin: int, end: int) -> Iterator[slice]:
        """The tiles' places between two rows or columns."""
        for start in range(begin, end, self.tile):
            yield slice(start, min(start + self.tile, end))


class Tiles(Products):
    """exp(z_i.z_j / T) of (row of this process, column of the global batch), tile by tile.

    Args:
        columns: the unit rows of all processes, (N, d), one process after the other.
        first: where this process's rows begin.
        count: how many they are.
        temperature: T.
    """

    with_itself = False
    """Whether a row with itself is a pair."""
    counted: Tensor | None = None
    """1 for a column that counts in sums over columns and 0 for another, (N,); None: all count."""

    def __init__(self, columns: Tensor, first: int, count: int, temperature: float) -> None:
        super().__init__(columns[first : first + count], columns, temperature)
        self.rows = self.columns[first : first + count]
        self.first = first
        self._ones = self.rows.new_ones(self.tile)

    def walk(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, exp(s) of them); the tensor is overwritten by the next."""
        buffer = self.buffer()
        last = self.first + len(self.rows)
        for i in self.blocks(0, len(self.rows)):
            # Other processes' columns, and of this process's those that a mirror image does not serve.
            for begin, end in ((0, self.first), (self.first + i.start, last), (last, len(self.columns))):
                for j in self.blocks(begin, end):
                    yield i, j, self.pairs(i, j, buffer)

    def pairs(self, i: slice, j: slice, buffer: Tensor) -> Tensor:
        """exp(s) of rows i and columns j, in the buffer; of a row with itself 0, unless ``with_itself``."""
        pairs = super().pairs(i, j, buffer)
        if not self.with_itself:
            for diagonal, _ in self._diagonal(pairs, i, j, self.first, 0, len(self.rows)):
                diagonal.zero_()
        return pairs

    def mirror(self, i: slice, j: slice) -> slice | None:
        """The rows whose pairs with rows i a tile (i, j) holds too, None when it holds none but i's."""
        k = slice(j.start - self.first, j.stop - self.first)
        return k if i.start < k.start and k.stop <= len(self.rows) else None

    def weighted(self, own: Tensor, other: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """The walk over exp(s_ij) (own_i + other_j): ``own`` of this process's rows, ``other`` of all columns."""
        weights = self.rows.new_empty(self.tile, self.tile)
        for i, j, pairs in self.walk():
            pairs.mul_(torch.add(own[i, None], other[j], out=weights[: len(pairs), : pairs.shape[1]]))
            yield i, j, pairs

    def centred_sums(self, walk: Iterator[tuple[slice, slice, Tensor]], mean: Tensor) -> tuple[Tensor, Tensor]:
        """sum over j of G_ij (z_j - mean), (count, d), and of G_ij, (count,), of the tiles of symmetric weights G.

        sum_j G_ij z_j is their sum, the second times the mean: when the embeddings collapse all z_j are nearly the mean
        and the sum of G_ij nearly 0; apart, neither term loses its digits.
        """
        sums, total = torch.zeros_like(self.rows), self.rows.new_zeros(len(self.rows))
        for i, j, weights in walk:
            sums[i].addmm_(weights, self._centred(j, mean))
            total[i].addmv_(weights, self.ones(j))
            if (k := self.mirror(i, j)) is not None:
                here = slice(self.first + i.start, self.first + i.stop)
                sums[k].addmm_(weights.T, self._centred(here, mean))
                total[k].addmv_(weights.T, self.ones(here))
        return sums, total

    def ones(self, j: slice) -> Tensor:
        """What a sum over columns j is a product with: ones, and zeros for columns that do not count."""
        return self._ones[: j.stop - j.start] if self.counted is None else self.counted[j]

    def _centred(self, j: slice, mean: Tensor) -> Tensor:
        """Columns j without the mean, those that do not count 0."""
        centred = self.columns[j] - mean
        return centred if self.counted is None else centred.mul_(self.counted[j, None])

    @staticmethod
    def _diagonal(pairs: Tensor, i: slice, j: slice, shift: int, low: int, high: int) -> Iterator[tuple[Tensor, slice]]:
        """The elements (row, row + shift), low <= row < high, that lie in the tile."""
        rows = slice(max(i.start, low, j.start - shift), min(i.stop, high, j.stop - shift))
        if rows.start < rows.stop:
            inside = pairs[rows.start - i.start :, rows.start + shift - j.start :]
            yield inside.diagonal()[: rows.stop - rows.start], rows


class Pairs(Tiles):
    """NT-Xent's: columns (2 B, d), of each process view 1 before view 2."""

    def __init__(self, columns: Tensor, first: int, count: int, temperature: float) -> None:
        super().__init__(columns, first, count, temperature)
        self.positives = positive_similarities(columns[first : first + count]).div_(temperature).exp_()
        self.half = count // 2

    def forward(self) -> PairSums:
        """The sums over all columns of every row."""
        negatives, rank = self.rows.new_zeros(len(self.rows)), self.rows.new_zeros(len(self.rows))
        positives = self.positives.to(self.rows.dtype)
        ones, larger = self.rows.new_ones(self.tile), self.rows.new_empty(self.tile, self.tile)
        for i, j, pairs in self.walk():
            for diagonal, _ in self._partners(pairs, i, j):
                diagonal.zero_()
            more = larger[: len(pairs), : pairs.shape[1]]
            negatives[i].addmv_(pairs, ones[: pairs.shape[1]])
            rank[i].addmv_(torch.gt(pairs, positives[i, None], out=more), ones[: pairs.shape[1]])
            if (k := self.mirror(i, j)) is not None:
                negatives[k].addmv_(pairs.T, ones[: len(pairs)])
                rank[k].addmv_(torch.gt(pairs, positives[k], out=more).T, ones[: len(pairs)])
        return PairSums(negatives, positives, rank)

    def gradient(self, sums: PairSums, all_sums: PairSums) -> Tensor:
        """sum over j of (p_ij + p_ji - 2 [j = pos(i)]) z_j for every row of this process, times 1/T.

        Args:
            sums: of this process's rows.
            all_sums: of all columns; the weight of a row is 1 / (its positive + its negatives).
        """
        own, other = (1 / (s.positives + s.negatives) for s in (sums, all_sums))
        missed = sums.negatives * own  # 1 - p_i,pos(i), without cancellation
        pull = -(missed + missed.roll(self.half))
        mean = self.columns.mean(0)
        gradient, total = self.centred_sums(self._pulled(own, other, pull), mean)
        return gradient.addr_(total, mean).div_(self.temperature)

    def _pulled(self, own: Tensor, other: Tensor, pull: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """The weighted walk with the positives' own weights."""
        for i, j, pairs in self.weighted(own, other):
            for diagonal, rows in self._partners(pairs, i, j):
                diagonal.copy_(pull[rows])
            yield i, j, pairs

    def _partners(self, pairs: Tensor, i: slice, j: slice) -> Iterator[tuple[Tensor, slice]]:
        """Where a tile holds rows' positives: (view of these elements, the rows)."""
        yield from self._diagonal(pairs, i, j, self.first + self.half, 0, self.half)
        yield from self._diagonal(pairs, i, j, self.first - self.half, self.half, len(self.rows))
