"""SupCon over the global batch, with the exact gradient at any number of processes.

With unit rows z_i, s_ij = z_i.z_j / T, the other rows of i's class P(i), and the anchors A (all rows, or those of the
first view), Khosla et al. 2020, equation 2 (L_out), as its authors' code averages it:

    L = T/T_base 1/|A| sum over i in A of [log sum over j != i of exp(s_ij) - 1/|P(i)| sum over p in P(i) of s_ip]

The first term goes over pairs: the tiles of NT-Xent (``tiles.py``), the anchors' weights in the place of its
1/(positive + negatives). The second is linear in the rows, z_i.(sum of the class - z_i): no tile needs a mask. Memory
is O(rows * d), the backward pass needs no communication.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.losses.tiles import Tiles


@dataclass(frozen=True)
class SupConResult:
    """The loss and what the same pass shows, over the global batch; equal on every process."""

    loss: Tensor
    """Scalar; its gradient reaches this process's rows, times the number of processes, as DDP's mean needs."""
    top1: Tensor
    """Share of anchors whose most similar other row is of their class."""


def sup_con(
    z: Tensor, labels: Tensor, temperature: float, base_temperature: float, contrast_mode: str = "all"
) -> SupConResult:
    """The loss of this process's embeddings among those of all.

    Args:
        z: unit rows, (images, views, d), as many on every process.
        labels: int64, (images,).
        temperature: T; at least 1/700, where float64 overflows.
        base_temperature: T_base.
        contrast_mode: ``all`` rows are anchors, or the first view's (``one``). An anchor alone in its class counts 0.
    """
    views = z.shape[1]
    anchors = torch.ones_like(labels, dtype=z.dtype).repeat(views)
    if contrast_mode == "one":
        anchors[len(labels) :] = 0
    rows = z.transpose(0, 1).flatten(0, 1)
    loss, top1 = _SupCon.apply(rows, labels.repeat(views), anchors, temperature, temperature / base_temperature)
    return SupConResult(loss, top1)


class _SupCon(torch.autograd.Function):
    """Unit rows (rows of this process, d), their labels, 1 for an anchor and 0 else -> loss, top-1."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, labels: Tensor, anchors: Tensor, temperature: float, scale: float) -> Any:
        first = process_rank() * len(rows)
        own = slice(first, first + len(rows))
        columns = gather_stacked(rows.contiguous(), label="rows of the loss").flatten(0, 1)
        all_labels = gather_stacked(labels, label="labels of the loss").flatten()
        all_anchors = gather_stacked(anchors, label="anchors of the loss").flatten()
        ctx.tiles, ctx.own, ctx.scale = Tiles(columns, first, len(rows), temperature), own, scale
        ctx.classes = classes = _Classes(columns, all_labels, all_anchors)
        ctx.anchors = classes.anchors.to(ctx.tiles.rows.dtype)
        candidates, nearest = _sums(ctx.tiles, all_labels)
        similarity = torch.linalg.vecdot(rows.double(), classes.mean_of_others(own)) / temperature
        losses = ctx.anchors[own].double() * (candidates.double().log() - similarity)
        hits = ctx.anchors[own].double() * (nearest == labels)
        gathered = gather_stacked(torch.stack((candidates.double(), losses, hits)), label="sums of the loss")
        ctx.candidates, losses, hits = gathered.transpose(0, 1).flatten(1)
        ctx.count, ctx.processes = all_anchors.sum(), process_count()
        loss, top1 = scale * losses.sum() / ctx.count, hits.sum() / ctx.count
        ctx.mark_non_differentiable(top1)
        return loss.to(rows.dtype), top1

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor, None, None, None, None]:
        tiles, own, mean = ctx.tiles, ctx.own, ctx.classes.mean
        weights = (ctx.anchors / ctx.candidates).to(tiles.rows.dtype)
        pushed, total = tiles.centred_sums(tiles.weighted(weights[own], weights), mean.to(tiles.rows.dtype))
        pulled, total_pulled = ctx.classes.pull(own)
        gradient = (pushed - pulled).addr_(total - total_pulled, mean)
        factor = ctx.scale * ctx.processes / (ctx.count * tiles.temperature)
        return (grad_loss * factor * gradient).to(grad_loss.dtype), None, None, None, None


def _sums(tiles: Tiles, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of this process's rows: the sum over all others of exp(s_ij), and the label of the most similar."""
    rows, own_labels = tiles.rows, labels[tiles.first : tiles.first + len(tiles.rows)]
    sums, largest = rows.new_zeros(len(rows)), rows.new_zeros(len(rows))
    nearest, ones = torch.full_like(own_labels, -1), rows.new_ones(tiles.tile)

    def add(i: slice, pairs: Tensor, theirs: Tensor) -> None:
        sums[i].addmv_(pairs, ones[: pairs.shape[1]])
        found, where = pairs.max(1)
        better = found > largest[i]
        nearest[i] = torch.where(better, theirs[where], nearest[i])
        largest[i] = torch.where(better, found, largest[i])

    for i, j, pairs in tiles.walk():
        add(i, pairs, labels[j])
        if (k := tiles.mirror(i, j)) is not None:
            add(k, pairs.T, own_labels[i])
    return sums, nearest


class _Classes:
    """Sums of rows over classes, in float64 and about the mean of all rows: neither order nor collapse shows in them.

    Args:
        columns: the rows of all processes, (N, d).
        labels: of theirs, (N,).
        anchors: 1 for an anchor, 0 else, (N,); one that is alone in its class becomes 0.
    """

    def __init__(self, columns: Tensor, labels: Tensor, anchors: Tensor) -> None:
        ordered = labels.sort().values
        # A class goes by the place of its first row among the ordered ones: no number of classes has to be known.
        self.number = torch.searchsorted(ordered, labels)
        self.others = torch.searchsorted(ordered, labels, right=True) - self.number - 1
        self.mean = columns.double().mean(0)
        self.rows = columns.double() - self.mean
        self.anchors = anchors.double() * (self.others > 0)
        self.sums = self._of_classes(self.rows)
        self.anchor_sums = self._of_classes(self.rows * self.anchors[:, None])
        self.anchor_counts = self._of_classes(self.anchors)

    def _of_classes(self, rows: Tensor) -> Tensor:
        return torch.zeros_like(rows).index_add_(0, self.number, rows)

    def mean_of_others(self, own: slice) -> Tensor:
        """1/|P(i)| sum over P(i) of z_p for some rows, (rows, d); of a row alone in its class, the mean of all."""
        return self._others(own) / self._count(own) + self.mean

    def pull(self, own: slice) -> tuple[Tensor, Tensor]:
        """sum over p of M_ip (z_p - mean), and of M_ip, with M_ip = (anchor_i + anchor_p) / |P(i)| for p in P(i)."""
        anchors, number, count = self.anchors[own, None], self.number[own], self._count(own)
        pull = anchors * self._others(own) + self.anchor_sums[number] - anchors * self.rows[own]
        total = anchors * self.others[own, None] + self.anchor_counts[number, None] - anchors
        return pull / count, (total / count)[:, 0]

    def _others(self, own: slice) -> Tensor:
        return self.sums[self.number[own]] - self.rows[own]

    def _count(self, own: slice) -> Tensor:
        return self.others[own, None].clamp_min(1)
