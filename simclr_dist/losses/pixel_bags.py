"""Contrast between all labelled pixels of a global batch, as if they were of one image: the loss ``batch``."""

from typing import Any

import torch
from torch import Tensor

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.losses.paper_pairs import PaperPairs, Weights
from simclr_dist.losses.pixels import Pixels
from simclr_dist.losses.release_pairs import ReleasePairs


def _everyone(own: Tensor, label: str) -> Tensor:
    return gather_stacked(own.contiguous(), label=label).flatten(0, 1)


class PaperBag(torch.autograd.Function):
    """All images' pixels as anchors against all copies' pixels."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, copies: Tensor, labels: Tensor, copies_labels: Tensor, temperature: float, slots: int
    ) -> Tensor:
        ctx.temperature, ctx.own = temperature, [Pixels(rows, labels, slots), Pixels(copies, copies_labels, slots)]
        anchors = ctx.own[0]
        ctx.copies = Pixels(_everyone(copies, "pixels of the copies"), _everyone(copies_labels, "their labels"), slots)
        pairs = PaperPairs(anchors, [ctx.copies], temperature)
        ctx.found = pairs.sums(), pairs.positives()
        parts = torch.stack((pairs.losses(*ctx.found).sum(), anchors.counted.double().sum()))
        total, ctx.count = gather_stacked(parts, label="sums of the loss").sum(0)
        ctx.count = ctx.count.clamp_min(1)
        loss: Tensor = total / ctx.count
        return loss.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None, None]:
        anchors, copies = ctx.own
        factor = gradients[0].double() * process_count() / ctx.count
        sums, positives = ctx.found
        pairs, weights = PaperPairs(anchors, [ctx.copies], ctx.temperature), Weights.of(sums, positives, factor)
        if process_count() == 1:
            of_anchors, (of_copies,) = pairs.gradient(weights)
            return of_anchors, of_copies, None, None, None, None
        of_anchors, _ = pairs.gradient(weights, of_candidates=False)
        rows, labels = (_everyone(each, "anchors of the loss") for each in (anchors.rows, anchors.labels))
        sums, positives = (_everyone(each, "sums of the loss") for each in ctx.found)
        pairs = PaperPairs(Pixels(rows, labels, anchors.slots), [copies], ctx.temperature)
        _, (of_copies,) = pairs.gradient(Weights.of(sums, positives, factor), of_anchors=False)
        return of_anchors, of_copies, None, None, None, None


class ReleaseBag(torch.autograd.Function):
    """All pixels against one another, as if they were of one image."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, labels: Tensor, temperature: float, slots: int) -> Tensor:
        columns = Pixels(_everyone(rows, "pixels of the loss"), _everyone(labels, "labels of the loss"), slots)
        ctx.pairs = pairs = ReleasePairs(columns, process_rank() * len(rows), len(rows), temperature)
        negatives = pairs.negatives()
        losses, shares = pairs.losses(negatives)
        parts = torch.stack((losses.double(), shares.double(), negatives.double()), dim=1)
        losses, shares, negatives = _everyone(parts, "sums of the loss").unbind(1)
        ctx.counted = columns.counted.double()
        ctx.found = shares.to(pairs.rows.dtype), negatives.to(pairs.rows.dtype)
        ctx.count = ctx.counted.sum().clamp_min(1)
        loss: Tensor = losses.sum() / ctx.count
        return loss.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        weights = ctx.counted * gradients[0].double() * process_count() / ctx.count
        gradient = ctx.pairs.gradient(*ctx.found, weights.to(ctx.found[0].dtype))
        return gradient.to(gradients[0].dtype), None, None, None
