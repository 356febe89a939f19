"""Contrast between labelled pixels in the form of its paper, tile by tile (Zhao et al. 2020, arXiv 2012.06985).

With unit rows z_i and s_ij = z_i.z_j / T, of a pixel i of the image I: its candidates A(i) are all pixels of the
distorted copy of I and, in the cross-image loss, those of i's class in the copy of another image J. With P(i) the
candidates of i's class,

    l_i = log sum over A(i) of exp(s_ij) - 1/|P(i)| sum over P(i) of s_ip,      0 where P(i) is empty

The second term is linear in the rows, z_i.(mean of the class): no tile needs a mask for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from simclr_dist.losses.pixels import PART, Pixels
from simclr_dist.losses.tiles import Products


@dataclass(frozen=True)
class Weights:
    """What a gradient needs of each anchor, (n,) each."""

    push: Tensor
    """w_i / sum over A(i) of exp(s_ij), w_i the anchor's share in the loss."""
    pull: Tensor
    """w_i / |P(i)|."""

    @classmethod
    def of(cls, sums: Tensor, positives: Tensor, share: Tensor) -> "Weights":
        """Of what the forward pass gives, where every anchor with a positive has the same share w."""
        has = positives > 0
        return cls(*(torch.where(has, share / torch.where(has, each, 1), 0) for each in (sums, positives)))


class PaperPairs:
    """The paper's form: all pairs of anchors and candidates.

    Args:
        anchors: n pixels.
        candidates: pixels of the first are candidates of every anchor, those of others of anchors of their class.
        temperature: T.
    """

    def __init__(self, anchors: Pixels, candidates: Sequence[Pixels], temperature: float) -> None:
        self.anchors, self.candidates, self.temperature = anchors, candidates, temperature
        self.products = [Products(anchors.rows, each.rows, temperature) for each in candidates]
        first = candidates[0]
        self.mean = (first.counted @ first.rows / first.counted.sum().clamp_min(1)).double()

    def sums(self) -> Tensor:
        """sum over A(i) of exp(s_ij), float64 (n,)."""
        total = self.anchors.rows.new_zeros(len(self.anchors.rows), dtype=torch.float64)
        for number, of in enumerate(self.products):
            sums, counted = of.rows.new_zeros(len(of.rows)), self._counted(number)
            for i, j, pairs in self._walk(number):
                sums[i].addmv_(pairs, counted[j])
            total += sums
        return total

    def positives(self) -> Tensor:
        """|P(i)|, float64 (n,), 0 for an anchor that does not count."""
        return self._class_counts[self.anchors.labels]

    def losses(self, sums: Tensor, positives: Tensor) -> Tensor:
        """l_i, float64 (n,), of what :meth:`sums` and :meth:`positives` give."""
        means = self._class_means
        similarities = torch.cat([
            torch.linalg.vecdot(rows.double(), means[labels] + self.mean)
            for rows, labels in zip(self.anchors.rows.split(PART), self.anchors.labels.split(PART), strict=True)
        ])  # fmt: skip
        has = positives > 0
        return torch.where(has, torch.where(has, sums, 1).log() - similarities / self.temperature, 0)

    def gradient(
        self, weights: Weights, *, of_anchors: bool = True, of_candidates: bool = True
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Of sum over i of w_i l_i, with respect to the anchors' rows and to each of the candidates'.

        The sums about means: of collapsed embeddings the terms of push and pull cancel otherwise.
        """
        rows, wanted = self.anchors.rows, len(self.candidates) if of_candidates else 0
        pushed = torch.zeros_like(rows) if of_anchors else None
        others = [torch.zeros_like(each.rows) for each in self.candidates[:wanted]]
        centre = rows.mean(0)
        for number, of in enumerate(self.products):
            push, counted = weights.push.to(of.rows.dtype), self._counted(number)
            near, far = self.mean.to(of.rows.dtype), centre.to(of.rows.dtype)
            sums = torch.zeros_like(of.rows) if of_anchors else None
            back = torch.zeros_like(of.columns) if of_candidates else None
            total = of.columns.new_zeros(len(of.columns))
            for i, j, pairs in self._walk(number):
                pairs.mul_(push[i, None])
                if sums is not None:
                    sums[i].addmm_(pairs, (of.columns[j] - near).mul_(counted[j, None]))
                if back is not None:
                    back[j].addmm_(pairs.T, of.rows[i] - far)
                    total[j].addmv_(pairs.T, counted.new_ones(1).expand(len(pairs)))
            if pushed is not None and sums is not None:
                pushed += sums
            if back is not None:
                self._pull_candidates(number, weights, centre, back, total)
                others[number] += back.mul_(counted[:, None] / self.temperature)
        if pushed is not None:
            means = self._class_means
            whole = weights.pull * self.positives()
            for begin in range(0, len(rows), PART):
                part = slice(begin, begin + PART)
                pushed[part] -= (whole[part, None] * means[self.anchors.labels[part]]).to(rows.dtype)
            pushed /= self.temperature
        return pushed, others

    def _walk(self, number: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, exp(s) of anchors and their candidates among them), overwritten by the next."""
        of, labels = self.products[number], self.candidates[number].labels.to(self.anchors.rows.dtype)
        own, pairs_buffer, same_buffer = self.anchors.labels.to(labels.dtype), of.buffer(), of.buffer()
        for i in of.blocks(0, len(of.rows)):
            for j in of.blocks(0, len(of.columns)):
                pairs = of.pairs(i, j, pairs_buffer)
                if number:
                    pairs.mul_(torch.eq(own[i, None], labels[j], out=of.shaped(same_buffer, i, j)))
                yield i, j, pairs

    def _counted(self, number: int) -> Tensor:
        return self.candidates[number].counted.to(self.products[number].rows.dtype)

    @cached_property
    def _class_means(self) -> Tensor:
        """1/|P| sum over P of z_p - mean of each class, float64 (slots, d); 0 for a class without candidates."""
        sums = [each.class_sums(each.rows - self.mean.to(each.rows.dtype)) for each in self.candidates]
        return torch.stack(sums).sum(0) / self._class_counts.clamp_min(1)[:, None]

    @cached_property
    def _class_counts(self) -> Tensor:
        """Candidates of each class, float64 (slots,)."""
        return torch.stack([each.class_counts() for each in self.candidates]).sum(0)

    def _pull_candidates(self, number: int, weights: Weights, centre: Tensor, back: Tensor, total: Tensor) -> None:
        """From sum over i of G_ij (z_i - centre) to sum over i of (G_ij - pull_i [y_i = y_j]) z_i, in place."""
        anchors, labels = self.anchors, self.candidates[number].labels
        pulls = anchors.class_sums((anchors.rows - centre) * weights.pull[:, None].to(centre.dtype))
        pulls_total = anchors.class_sums(weights.pull[:, None])
        for begin in range(0, len(labels), PART):
            part = slice(begin, begin + PART)
            back[part] -= pulls[labels[part]].to(back.dtype)
            rest = total[part].double() - pulls_total[labels[part], 0]
            back[part] += (rest[:, None] * centre).to(back.dtype)
