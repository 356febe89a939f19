"""Pictures of views, before anything is trained."""

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from simclr_dist.config import Recipe
from simclr_dist.data.rendering.renderers import RENDERERS, stack_views
from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.views.draws import draw_views


def contact_sheet(source: ImageSource, recipe: Recipe, images: int, pairs: int = 3, renderer: str = "numba") -> Tensor:
    """uint8 (3, height, width): one row an image: the image itself, then its pairs of views of the first epochs.

    Raises:
        BrokenImageError: one of the images cannot be read.
    """
    samples = np.linspace(0, len(source) - 1, images).astype(np.int64)
    size = recipe.data.image_size
    drawn = [[draw_views(recipe.views, recipe.seed, epoch, samples, view) for view in (0, 1)] for epoch in range(pairs)]
    tiles = []
    for row, sample in enumerate(samples):
        image = source.read(int(sample))
        tiles.append(render_plain(image, size)[None])
        tiles += [
            stack_views(RENDERERS[renderer], image, parameters, row, size, recipe.views.color_form)
            for parameters in drawn
        ]
    return make_grid(torch.cat(tiles), nrow=1 + 2 * pairs, padding=2, pad_value=255)  # type: ignore[no-any-return]
