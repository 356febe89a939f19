"""Contrast between the labelled pixels of images: within an image, across images, or over a batch; two forms.

Which pixels an anchor is held against, in the form of the paper (``paper_pairs.py``) and of its authors' release
(``release_pairs.py``); I is an image, I' its distorted copy, J' the copy of its partner J:

    within  paper: I against I'                         release: I against I, plus I' against I'
    cross   paper: I against I' and the class in J'     release: I and J' against both, negatives in the own image
    batch   paper: all I against all I'                 release (not in it): all I against all I, plus all I' likewise

Means are the authors': over the pixels that count (the paper's anchors without a positive among them, as 0), then over
the images of the global batch (those without such pixels among them, as 0); of a batch over its pixels.
An image that is its own partner, the only labelled one, has no J: `cross` is `within` in the paper's form, and in the
release's I against I alone.
Memory is O(pixels * d). Each process has the anchors of its own images; rows of others come where the loss needs them.
Small maps in the paper's form, within or cross, are ``small_maps.py``'s.
"""

from typing import Any

import torch
from torch import Tensor

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.losses import small_maps
from simclr_dist.losses.paper_pairs import PaperPairs, Weights
from simclr_dist.losses.pixel_bags import PaperBag, ReleaseBag
from simclr_dist.losses.pixels import IGNORED, Pixels, labels_of_partners
from simclr_dist.losses.release_pairs import ReleasePairs

Found = tuple[Tensor, Tensor]
"""What the forward pass of an image's loss leaves to the backward pass, of each of its pixels."""


def pixel_contrast(
    z: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    loss: str = "within",
    form: str = "paper",
    partners: Tensor | None = None,
    slots: int = IGNORED + 1,
) -> Tensor:
    """The loss of this process's images in the global batch, a scalar; equal on every process.

    Its gradient reaches this process's rows, times the number of processes, as DDP's mean needs.

    Args:
        z: unit rows of the pixels of each image and of its copy, (images, 2, pixels, d), as many on every process.
        labels: their classes, int64 (images, 2, pixels), below 255; 255 where they count nowhere. Classes above 255 are
            of one image alone and no partner's.
        temperature: T; at least 1/700, where float64 overflows.
        loss: ``within``, ``cross`` or ``batch``.
        form: ``paper`` or ``release``.
        partners: of ``cross``: the place in the global batch of each of its images' partners, int64 (images of all
            processes,); every image is the partner of one. Of an image that is its own no pixels are candidates.
        slots: labels are below it.
    """
    if loss == "batch":
        views = ((z[:, 0], z[:, 1]),) if form == "paper" else ((z[:, 0],), (z[:, 1],))
        classes = ((labels[:, 0], labels[:, 1]),) if form == "paper" else ((labels[:, 0],), (labels[:, 1],))
        bag: Any = PaperBag if form == "paper" else ReleaseBag
        found = [
            bag.apply(*(each.flatten(0, 1) for each in (*rows, *own)), temperature, slots)
            for rows, own in zip(views, classes, strict=True)
        ]
        return torch.stack(found).sum()
    if form == "paper" and z.shape[2] <= small_maps.MOST_PIXELS.get(z.device.type, 0):
        return small_maps.small_maps_contrast(z, labels, temperature, partners if loss == "cross" else None)
    result: Tensor = _OfImages.apply(z, labels, partners if loss == "cross" else None, temperature, form, slots)
    return result


class _OfImages(torch.autograd.Function):
    """The mean over images of losses that each take pixels of one image, of its copy and of its partner's copy."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, labels: Tensor, partners: Tensor | None, temperature: float, form: str, slots: int
    ) -> Tensor:
        ctx.z, ctx.labels, ctx.partners, ctx.found = z, labels, partners, []
        ctx.problems = _Problems(z, labels, partners, temperature, form, slots)
        losses = []
        for image in range(len(z)):
            of_image = [problem.loss() for problem, _ in ctx.problems.of(image)]
            losses.append(torch.stack([value for value, _ in of_image]).sum())
            ctx.found.append([found for _, found in of_image])
        everyone = gather_stacked(torch.stack(losses), label="losses of the images").flatten()
        ctx.factor = process_count() / len(everyone)
        return everyone.mean().to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        z, factor = ctx.z, gradients[0].double() * ctx.factor
        of_z = torch.zeros_like(z)
        of_partners = torch.zeros_like(z[:, 1]) if ctx.partners is not None else None
        for image in range(len(z)):
            for (problem, views), found in zip(ctx.problems.of(image), ctx.found[image], strict=True):
                for view, gradient in zip(views, problem.gradients(found, factor), strict=True):
                    into = of_z[image, view] if of_partners is None or view < 2 else of_partners[image]
                    into.add_(gradient)
        if of_partners is not None:
            # Back to the images that were partners: each was the partner of one.
            everyone = gather_stacked(of_partners, label="gradients of the partner images").flatten(0, 1)
            owners = ctx.partners.argsort()[process_rank() * len(z) :]
            for image in range(len(z)):
                of_z[image, 1].add_(everyone.index_select(0, owners[image : image + 1])[0])
        return of_z, None, None, None, None, None


class _Problems:
    """Which pixels of an image are held against which, and whose gradient each part of them is."""

    def __init__(
        self, z: Tensor, labels: Tensor, partners: Tensor | None, temperature: float, form: str, slots: int
    ) -> None:
        self.z, self.labels, self.temperature, self.form, self.slots = z, labels, temperature, form, slots
        self.own_partners = None
        if partners is not None:
            first = process_rank() * len(z)
            self.own_partners = partners[first:][: len(z)]
            self.copies = gather_stacked(z[:, 1], label="pixels of the partner images").flatten(0, 1)
            theirs = gather_stacked(labels[:, 1], label="labels of the partner images").flatten(0, 1)
            theirs = theirs.index_select(0, self.own_partners)
            self.labels_of_partners = labels_of_partners(theirs, self.own_partners, first)

    def of(self, image: int) -> "list[tuple[_PaperImage | _ReleaseImage, tuple[int, ...]]]":
        """(losses, added; the view of each of their pixels: 0 the image, 1 its copy, 2 its partner's copy)."""
        own, copy = (Pixels(self.z[image, view], self.labels[image, view], self.slots) for view in (0, 1))
        partner = []
        if self.own_partners is not None:
            where = self.own_partners[image : image + 1]
            rows = self.copies.index_select(0, where)[0]
            partner = [Pixels(rows, self.labels_of_partners[image], self.slots)]
        if self.form == "paper":
            return [(_PaperImage(own, [copy, *partner], self.temperature), (0, 1, 2)[: 2 + len(partner)])]
        if partner:
            return [(_ReleaseImage([own, *partner], self.temperature), (0, 2))]
        return [(_ReleaseImage([each], self.temperature), (view,)) for view, each in enumerate((own, copy))]


class _PaperImage:
    def __init__(self, anchors: Pixels, candidates: list[Pixels], temperature: float) -> None:
        self.pairs = PaperPairs(anchors, candidates, temperature)
        self.count = anchors.counted.double().sum().clamp_min(1)

    def loss(self) -> tuple[Tensor, Found]:
        """The mean over anchors, float64, and what :meth:`gradients` needs."""
        found = self.pairs.sums(), self.pairs.positives()
        return self.pairs.losses(*found).sum() / self.count, found

    def gradients(self, found: Found, factor: Tensor) -> list[Tensor]:
        """Of the loss times the factor, of the anchors and each of the candidates."""
        of_anchors, of_candidates = self.pairs.gradient(Weights.of(*found, factor / self.count))
        assert of_anchors is not None
        return [of_anchors, *of_candidates]


class _ReleaseImage:
    def __init__(self, parts: list[Pixels], temperature: float) -> None:
        self.sizes = [len(each.rows) for each in parts]
        rows, labels = (torch.cat(each) for each in zip(*((part.rows, part.labels) for part in parts), strict=True))
        pixels = Pixels(rows, labels, parts[0].slots)
        self.pairs = ReleasePairs(pixels, 0, len(rows), temperature, images=(self.sizes[0],))
        self.counted = pixels.counted.double()

    def loss(self) -> tuple[Tensor, Found]:
        """The mean over pixels, float64, and what :meth:`gradients` needs."""
        negatives = self.pairs.negatives()
        losses, shares = self.pairs.losses(negatives)
        return losses.double().sum() / self.counted.sum().clamp_min(1), (shares, negatives)

    def gradients(self, found: Found, factor: Tensor) -> list[Tensor]:
        """Of the loss times the factor, of each part."""
        weights = self.counted * factor / self.counted.sum().clamp_min(1)
        return list(self.pairs.gradient(*found, weights.to(found[0].dtype)).split(self.sizes))
