"""Pictures of views, before anything is trained."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.utils import make_grid

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.preview_frames import frames_sheet
from simclr_dist.data.rendering.masks import colored, render_masks
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.data.sources.base import ImageSource, with_masks
from simclr_dist.data.views.groups import draw_groups
from simclr_dist.data.views.view_geometry import geometry_of


def contact_sheet(source: ImageSource, recipe: Recipe, images: int, epochs: int = 3, renderer: str = "numba") -> Tensor:
    """uint8 (3, height, width): one row an image: the image itself, then its views in each of the first epochs.

    Smaller views stand in a white frame of the largest's size. For a method that needs masks, each view's mask stands
    beside it, in VOC's colours. Where views show partners of frames: :func:`preview_frames.frames_sheet`.

    Raises:
        BrokenImageError: one of the images cannot be read.
    """
    if any(group.frame != "own" for group in recipe.views.values()):
        return frames_sheet(source, recipe, images, epochs, renderer)
    samples = np.linspace(0, len(source) - 1, images).astype(np.int64)
    groups = [group for epoch in range(epochs) for group in draw_groups(recipe, epoch, samples)]
    side = max(group.side for group in groups)
    masked = with_masks(source) if "masks" in method_class(recipe.method.name).needs else None
    tiles = []
    for row, sample in enumerate(samples):
        image, mask = masked.read_with_mask(int(sample)) if masked else (source.read(int(sample)), None)
        tiles.append(render_plain(image, side))
        for group in groups:
            for drawn in group.parameters:
                view = RENDERERS[renderer].view(image, drawn, row, group.side, *group.forms)
                tiles.append(_framed(view, side))
                if mask is not None:
                    place = geometry_of([(image.shape[1], image.shape[2])], [drawn], first_row=row)
                    tiles.append(_framed(colored(render_masks([mask], place, group.side)[0, 0]), side))
    columns = 1 + sum(len(group.parameters) for group in groups) * (2 if masked else 1)
    return make_grid(torch.stack(tiles), nrow=columns, padding=2, pad_value=255)  # type: ignore[no-any-return]


def _framed(view: Tensor, side: int) -> Tensor:
    before = (side - view.shape[-1]) // 2
    after = side - view.shape[-1] - before
    return pad(view, (before, after, before, after), value=255)
