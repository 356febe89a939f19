"""Contrast between labelled pixels in the form of its authors' release, tile by tile.

google-research/google-research, supervised_pixel_contrastive_loss. With unit rows z_i and s_ij = z_i.z_j / T: anchors
and candidates are the same pixels, each its own positive too. P(i) are the pixels of i's class, N(i) those of other
classes in i's own image, and beside a positive stand the negatives alone, not the other positives:

    l_i = 1/|P(i)| sum over p in P(i) of log [1 + exp(-s_ip) sum over N(i) of exp(s_in)]
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from simclr_dist.losses.pixels import Pixels
from simclr_dist.losses.tiles import Tiles


class ReleasePairs(Tiles):
    """The release's form: pixels are anchors and candidates of one another.

    Args:
        columns: of all processes, or of an image and its partner, as one.
        first: where this process's begin.
        count: how many they are.
        temperature: T.
        images: where a new image begins among the columns: pixels of different images are no negatives.
    """

    with_itself = True

    def __init__(self, columns: Pixels, first: int, count: int, temperature: float, images: Sequence[int] = ()) -> None:
        super().__init__(columns.rows, first, count, temperature)
        self.own, self.images = slice(first, first + count), sorted({0, *images})
        self.labels = columns.labels.to(self.columns.dtype)
        self.counted = columns.counted.to(self.columns.dtype)
        self.positives = columns.class_counts()[columns.labels].clamp_min(1).to(self.columns.dtype)
        """|P(i)|, (N,); 1 for a pixel that does not count."""

    def blocks(self, begin: int, end: int) -> Iterator[slice]:
        """No tile has rows or columns of two images."""
        edges = [begin, *(each for each in self.images if begin < each < end), end]
        for start, stop in pairwise(edges):
            yield from super().blocks(start, stop)

    def negatives(self) -> Tensor:
        """sum over N(i) of exp(s_in), (count,)."""
        sums, other_buffer = self.rows.new_zeros(len(self.rows)), self.buffer()
        for i, j, pairs in self.walk():
            if not self._one_image(i, j):
                continue
            pairs.mul_(torch.ne(self._labels(i), self.labels[j], out=self.shaped(other_buffer, i, j)))
            sums[i].addmv_(pairs, self.ones(j))
            if (k := self.mirror(i, j)) is not None:
                sums[k].addmv_(pairs.T, self.ones(self._columns(i)))
        return sums

    def losses(self, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """l_i, (count,), and what the negatives' gradient needs, 1/|P(i)| sum over P(i) of 1 / (exp(s_ip) + N_i)."""
        losses, shares = self.rows.new_zeros(len(self.rows)), self.rows.new_zeros(len(self.rows))
        same_buffer, buffer = self.buffer(), self.buffer()

        def add(i: slice, pairs: Tensor, same: Tensor, tile: Tensor, ones: Tensor) -> None:
            own = negatives[i, None]
            losses[i].addmv_(torch.div(own, pairs, out=tile).log1p_().mul_(same), ones)
            shares[i].addmv_(torch.add(pairs, own, out=tile).reciprocal_().mul_(same), ones)

        for i, j, pairs in self.walk():
            same = torch.eq(self._labels(i), self.labels[j], out=self.shaped(same_buffer, i, j))
            tile = self.shaped(buffer, i, j)
            add(i, pairs, same, tile, self.ones(j))
            if (k := self.mirror(i, j)) is not None:
                add(k, pairs.T, same.T, tile.T, self.ones(self._columns(i)))
        counted = self.counted_rows / self.positives[self.own]
        return losses * counted, shares * counted

    @property
    def counted_rows(self) -> Tensor:
        """``counted`` of this process's rows."""
        assert self.counted is not None
        return self.counted[self.own]

    def gradient(self, shares: Tensor, negatives: Tensor, weights: Tensor) -> Tensor:
        """Of sum over i of w_i l_i, of all columns i, with respect to this process's rows.

        Args:
            shares: of all columns, (N,), the second of what :meth:`losses` gives.
            negatives: the same.
            weights: w, (N,), 0 for pixels that do not count.
        """
        mean = self.columns.mean(0)
        pull, push = weights * negatives / self.positives, weights * shares
        sums, total = self.centred_sums(self._gradients(negatives, pull, push), mean)
        return sums.addr_(total, mean).mul_(self.counted_rows[:, None] / self.temperature)

    def _gradients(self, negatives: Tensor, pull: Tensor, push: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """The walk over G_ij + G_ji, G_ij of l_i with respect to s_ij, times w_i."""
        one_buffer, other_buffer, same_buffer = self.buffer(), self.buffer(), self.buffer(torch.bool)
        for i, j, pairs in self.walk():
            here, one, other = self._columns(i), self.shaped(one_buffer, i, j), self.shaped(other_buffer, i, j)
            same = torch.eq(self._labels(i), self.labels[j], out=self.shaped(same_buffer, i, j))
            torch.add(pairs, negatives[here, None], out=one).reciprocal_().mul_(pull[here, None])
            torch.add(pairs, negatives[j], out=other).reciprocal_().mul_(pull[j])
            one.add_(other).neg_()
            if self._one_image(i, j):
                pairs.mul_(torch.add(push[here, None], push[j], out=other))
            else:
                pairs.zero_()
            yield i, j, torch.where(same, one, pairs, out=pairs)

    def _columns(self, i: slice) -> slice:
        """Rows i of this process among all columns."""
        return slice(self.first + i.start, self.first + i.stop)

    def _labels(self, i: slice) -> Tensor:
        return self.labels[self._columns(i), None]

    def _one_image(self, i: slice, j: slice) -> bool:
        begin, end = sorted((self._columns(i).start, j.start))
        return not any(begin < each <= end for each in self.images)
