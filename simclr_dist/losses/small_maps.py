"""The paper's form of pixel contrast for small maps: the images' matrices of similarities side by side, in float64.

Image by image a map of 8 x 8 pixels is some three hundred kernels a step, each done sooner than it is started. Here a
part of the images goes through each kernel together. A matrix of n x n pairs is no more than the n rows of d numbers
that it is made of where n <= d, so memory stays O(pixels * d). The formula stands in ``paper_pairs.py``.
"""

from typing import Any

import torch
from torch import Tensor

from simclr_dist.distributed.collectives import gather_stacked, process_rank
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.pixels import IGNORED, labels_of_partners

MOST_PIXELS = {"cpu": 128, "cuda": 256}
"""Of a map, by device; on a CPU float64 costs more than it saves beyond. The number of images has no say: it differs
with the number of processes, and the sums here are others."""
_PAIRS = 1 << 22
"""At once: 32 MiB a matrix."""


def small_maps_contrast(z: Tensor, labels: Tensor, temperature: float, partners: Tensor | None) -> Tensor:
    """As :func:`simclr_dist.losses.pixel_contrast.pixel_contrast` in the form ``paper``, ``within`` or (with partners)
    ``cross``."""
    anchors, copies = z.unbind(1)
    own, of_copies = labels.unbind(1)
    candidates, classes = [copies], [of_copies]
    if partners is not None:
        theirs: Tensor = _OfPartners.apply(of_copies, partners)
        candidates.append(_OfPartners.apply(copies, partners))
        classes.append(labels_of_partners(theirs, _ours(partners, z), process_rank() * len(z)))
    at_once = max(1, _PAIRS // (z.shape[2] ** 2 * len(candidates)))
    parts = [
        _of_images(
            anchors[part], own[part], torch.cat([each[part] for each in candidates], 1),
            torch.cat([each[part] for each in classes], 1), temperature,
        )
        for part in (slice(begin, begin + at_once) for begin in range(0, len(z), at_once))
    ]  # fmt: skip
    return global_batch(torch.cat(parts), "losses of the images").mean().to(z.dtype)


class _OfPartners(torch.autograd.Function):
    """The rows (images, ...) of the partners of this process's images, which may be another's."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, partners: Tensor) -> Tensor:
        ctx.partners = partners
        everyone = gather_stacked(own, label="pixels of the partner images").flatten(0, 1)
        return everyone.index_select(0, _ours(partners, own))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        everyone = gather_stacked(gradients[0], label="gradients of the partner images").flatten(0, 1)
        # Each image was the partner of one.
        return everyone.index_select(0, _ours(ctx.partners.argsort(), gradients[0])), None


def _ours(of_all: Tensor, own: Tensor) -> Tensor:
    return of_all[process_rank() * len(own) :][: len(own)]


def _of_images(anchors: Tensor, own: Tensor, candidates: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Of each image the mean over its pixels, float64 (images,).

    Args:
        anchors: (images, n, d).
        own: their classes, (images, n).
        candidates: (images, m, d): the copy's n pixels, which are candidates of every anchor, then the partner's.
        classes: theirs, (images, m).
        temperature: T.
    """
    similarities = anchors.double() @ candidates.double().transpose(1, 2) / temperature
    same = (own[:, :, None] == classes[:, None]) & (classes != IGNORED)[:, None]
    of_copy = torch.arange(classes.shape[1], device=classes.device) < own.shape[1]
    allowed = same | (of_copy & (classes != IGNORED))[:, None]
    normaliser = similarities.masked_fill(~allowed, -torch.inf).logsumexp(2)
    positives = same.sum(2)
    losses = normaliser - (similarities * same).sum(2) / positives.clamp_min(1)
    return torch.where(positives > 0, losses, 0).sum(1) / (own != IGNORED).sum(1).clamp_min(1)
