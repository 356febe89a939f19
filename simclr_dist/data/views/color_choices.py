"""What the recipe draws for a view after its crop and flip, as tensors that a DataLoader can send and pin."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from simclr_dist.data.views.draws import ViewParameters


class ColorChoices(NamedTuple):
    """The fields of :class:`ViewParameters` that colour needs, under the same names, with leading dimensions of choice.

    They stay on the CPU, whatever the renderer's device: which image takes which operation decides the sizes of what
    the device computes, so it must be known there without asking the device. About 70 bytes an image.
    """

    color: Tensor
    color_order: Tensor
    color_factors: Tensor
    """float64: 1 - factor is rounded once, as in torchvision, which takes Python numbers."""
    grayscale: Tensor
    blur_sigma: Tensor
    solarize: Tensor


def choices_of(parameters: list[ViewParameters]) -> ColorChoices:
    """The choices for the views of n images, with leading dimensions (n, views); one ``ViewParameters`` a view."""
    names = ColorChoices._fields
    return ColorChoices(
        *(torch.from_numpy(np.stack([getattr(each, name) for each in parameters], axis=1)) for name in names)
    )
