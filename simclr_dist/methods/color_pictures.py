"""Pictures of lightness and colour, for ``preview`` and reports."""

import torch
from torch import Tensor

from simclr_dist.losses.color_bins import bin_centres, soft_encoding
from simclr_dist.models.lab import lab_of, rgb_of

_LIGHTNESS = 65.0
"""Of the pictures of colours alone: one at which most bins can be shown."""


def lightness_of(pixels: Tensor) -> Tensor:
    """The grey images (rows, 3, h, w) that an encoder of the lightness sees, of RGB in 0..1."""
    return (lab_of(pixels)[:, :1] / 100).expand(-1, 3, -1, -1)


def binned(pixels: Tensor) -> Tensor:
    """The centres of the bins that the pixels' colours are in, at one lightness, of RGB in 0..1 (rows, 3, h, w)."""
    colors = lab_of(pixels)[:, 1:].movedim(1, -1)
    centres = bin_centres().to(colors)
    nearest = centres[soft_encoding(colors, centres, neighbours=1).bins[..., 0]].movedim(-1, 1)
    return rgb_of(torch.cat((torch.full_like(nearest[:, :1], _LIGHTNESS), nearest), dim=1))


def in_bytes(*tiles: Tensor) -> Tensor:
    """uint8 (rows, tiles, 3, h, w) of pictures in 0..1, (rows, 3, h, w) each."""
    return (torch.stack(tiles, dim=1) * 255).round().clamp(0, 255).byte()
