"""What the tasks of colours share: their images, their map, their pictures, and means over images with colour."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from simclr_dist.config import Recipe
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.color_bins import bin_centres, soft_encoding
from simclr_dist.methods.base import Batch, Method, MethodKeys, Metric, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import one_plain
from simclr_dist.models.lab import lab_of, lightness_of, rgb_of

_LIGHTNESS = 65.0
"""Of the pictures of colours alone: one at which most bins can be shown."""
COLOR_METRICS: Mapping[str, Metric] = {
    "color_top1": Metric(
        title="colour top-1", unit="%", role="headline", band=True, from_zero=True,
        text="the likeliest of 313 colours is that of the place, in images with colour",
        below="the learning rate, and whether the images have colours (colored_images)",
        above="whether the images have few colours",
    ),
    "colored_images": Metric(
        title="images with colour", unit="%", from_zero=True, text="accuracies and errors are of these alone"
    ),
}  # fmt: skip


class ColorTask(Method):
    """A task about each cell of the encoder's map of one view; its keys have ``hidden_dim``, of its heads."""

    needs: ClassVar[frozenset[str]] = frozenset({"color"})

    def __init__(self, config: Any, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.encoder.maps_only()
        self.map_side = self.encoder.map_side(make.recipe.views["global"].side(make.recipe.data.image_size))

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """A crop in its own colours."""
        return one_plain(crop_area_min=0.08)

    @classmethod
    def small(cls, config: Any, images: int) -> Any:
        """With narrow heads."""
        return replace(config, hidden_dim=16)

    @classmethod
    def pictures(cls, recipe: Recipe, batch: Batch) -> Tensor:
        """Lightness, classes of the colours, view."""
        pixels = batch.views["global"][:, 0] / 255
        return in_bytes(lightness_of(pixels), binned(pixels), pixels)

    def lab(self, batch: Batch) -> Tensor:
        """L, a and b of the views, (images, 3, s, s), in the type of the weights."""
        return lab_of(batch.views["global"][:, 0].to(self.encoder.mean.dtype) / 255)


def over_colored(colored: Tensor, *values: Tensor) -> list[Tensor]:
    """Means of values (images, cells) over the coloured images (1 in ``colored``, else 0) of the global batch, then the
    share of those."""
    own = torch.stack([each.double().mean(1) * colored for each in values] + [colored.double()], dim=1)
    everyone = global_batch(own, "colours")
    sums = everyone.sum(0)
    return [*(sums[:-1] / sums[-1].clamp_min(1)), sums[-1] / len(everyone)]


def binned(pixels: Tensor) -> Tensor:
    """The centres of the bins that the pixels' colours are in, at one lightness, of RGB in 0..1 (rows, 3, h, w)."""
    colors = lab_of(pixels)[:, 1:].movedim(1, -1)
    centres = bin_centres().to(colors)
    nearest = centres[soft_encoding(colors, centres, neighbours=1).bins[..., 0]].movedim(-1, 1)
    return rgb_of(torch.cat((torch.full_like(nearest[:, :1], _LIGHTNESS), nearest), dim=1))


def in_bytes(*tiles: Tensor) -> Tensor:
    """uint8 (rows, tiles, 3, h, w) of pictures in 0..1, (rows, 3, h, w) each."""
    return (torch.stack(tiles, dim=1) * 255).round().clamp(0, 255).byte()
