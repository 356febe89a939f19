"""Images and masks as segmentation is trained on them: scaled at random, cropped or filled up, flipped."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as tv

from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.rendering.masks import render_masks
from simclr_dist.data.rendering.torchvision_ import resize
from simclr_dist.data.sources.base import IGNORED, BrokenImageError, MaskedSource
from simclr_dist.data.views.view_geometry import ViewGeometry
from simclr_dist.errors import UserError
from simclr_dist.evaluation.supervised import Batches, own_part
from simclr_dist.random.philox import Purpose, uniforms

Ground = tuple[int, int, int]
"""The colour (0..255) beside an image."""


@dataclass(frozen=True, kw_only=True)
class CropRule:
    """How a training image becomes a square."""

    side: int
    """Of the square, pixels."""
    short_side: int = 0
    """To which an image's shorter side is scaled first, pixels; 0: it stays as it is."""
    scale_min: float = 0.5
    scale_max: float = 2.0
    """It is then scaled by a factor drawn evenly between these two, the shape kept, and a square of it is taken."""
    ground: Ground = (124, 116, 104)
    """Of what a smaller image is filled up with, at its right and below; the mask is IGNORED there."""


@dataclass
class ScaledCrops(Dataset[Batch]):
    """step -> one crop, in the group ``crop``, of each image of this process's share of the global batch, with its
    mask; a function of (order.seed, epoch, number in ``source``) alone."""

    source: MaskedSource
    rule: CropRule
    order: SampleOrder
    part: int = 0
    parts: int = 1

    def __getitem__(self, step: int) -> Batch:
        epoch = self.order.epoch(step)
        samples = self.order.samples(step, self.part, self.parts)
        drawn = uniforms(self.order.seed, Purpose.VIEW, epoch, samples, 0, 4)
        side, broken = self.rule.side, []
        images = torch.zeros(len(samples), 1, 3, side, side, dtype=torch.uint8)
        masks = torch.full((len(samples), 1, side, side), IGNORED, dtype=torch.uint8)
        for row, sample in enumerate(samples.tolist()):
            try:
                image, mask = self.source.read_with_mask(sample)
            except BrokenImageError as error:
                broken.append((sample, str(error)))
            else:
                images[row, 0], masks[row] = scaled_crop(image, mask, self.rule, drawn[row].tolist())
        return Batch(
            views={"crop": images}, masks={"crop": masks}, samples=torch.from_numpy(samples), epoch=epoch,
            seed=self.order.seed, broken=broken,
        )  # fmt: skip


def scaled_crop(image: Tensor, mask: Tensor, rule: CropRule, drawn: Sequence[float]) -> tuple[Tensor, Tensor]:
    """One crop and its mask.

    Args:
        image: uint8 (3, height, width).
        mask: uint8 (height, width).
        rule: how.
        drawn: four numbers in [0, 1): of the scale, of the place from above and from left, of the flip.

    Returns:
        uint8 (3, side, side) and (1, side, side).
    """
    height, width = mask.shape
    scale = rule.scale_min + drawn[0] * (rule.scale_max - rule.scale_min)
    if rule.short_side:
        scale *= rule.short_side / min(height, width)
    box = max(1, round(rule.side / scale))  # what becomes the square, in pixels of the image
    image, mask = filled_up(image, max(height, box), max(width, box), rule.ground, mask)
    top, left = (int(at * (size - box + 1)) for at, size in zip(drawn[1:3], mask.shape, strict=True))
    flip = drawn[3] < 0.5
    crop = resize(image[:, top : top + box, left : left + box], rule.side)
    geometry = ViewGeometry(
        box=torch.tensor([[[top, left, box, box]]]),
        flip=torch.tensor([[flip]]),
        source=torch.tensor([list(mask.shape)]),
    )
    return tv.horizontal_flip(crop) if flip else crop, render_masks([mask], geometry, rule.side)[0]


def filled_up(image: Tensor, height: int, width: int, ground: Ground, mask: Tensor) -> tuple[Tensor, Tensor]:
    """An image and its mask of at least their size, with ``ground`` and IGNORED at the right and below."""
    beside = (0, width - mask.shape[1], 0, height - mask.shape[0])
    if not any(beside):
        return image, mask
    filled = torch.tensor(ground, dtype=torch.uint8)[:, None, None].repeat(1, height, width)
    filled[:, : image.shape[1], : image.shape[2]] = image
    return filled, F.pad(mask, beside, value=IGNORED)


def ground_of(mean: Sequence[float]) -> Ground:
    """The colour that the encoder's normalisation makes zero, as near as whole numbers come."""
    red, green, blue = (int(np.clip(round(255 * value), 0, 255)) for value in mean)
    return red, green, blue


def crops_with_masks(
    source: MaskedSource, rule: CropRule, order: SampleOrder, *, workers: int = 0, pin_memory: bool = False
) -> Batches:
    """Crops uint8 (images, 3, side, side) and masks (images, side, side) of this process's share of each step."""

    def batches(steps: Sequence[int]) -> Generator[tuple[Tensor, Tensor], None, None]:
        shares = ScaledCrops(source, rule, order, *own_part(order))
        with closing(load_steps(shares, steps, workers=workers, pin_memory=pin_memory)) as loaded:
            for batch in loaded:
                if batch.broken:
                    raise UserError(f"evaluation needs every image, and one is broken: {batch.broken[0][1]}")
                yield batch.views["crop"][:, 0], batch.masks["crop"][:, 0]

    return batches
