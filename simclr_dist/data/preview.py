"""Pictures of views, before anything is trained."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.utils import make_grid

from simclr_dist.config import Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.preview_frames import frames_sheet
from simclr_dist.data.rendering.masks import colored, render_masks
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.data.sources.base import BrokenImageError, ImageSource, with_masks
from simclr_dist.data.views.groups import DrawnGroup, draw_groups
from simclr_dist.data.views.view_geometry import geometry_of

_NEAR = 20


def contact_sheet(
    source: ImageSource,
    recipe: Recipe,
    images: int,
    epochs: int = 3,
    renderer: str = "numba",
    passed_over: Callable[[str], object] | None = None,
) -> Tensor:
    """uint8 (3, height, width): one row an image: the image itself, then its views in each of the first epochs.

    Smaller views stand in a white frame of the largest's size. For a method that needs masks, each view's mask stands
    beside it, in VOC's colours. A method with PICTURES shows those in the place of the views. Where views show partners
    of frames: :func:`preview_frames.frames_sheet`.

    ``passed_over``: told of each image that cannot be read, in whose place the next one stands.

    Raises:
        BrokenImageError: one of the images cannot be read; with ``passed_over``: none of those tried.
    """
    samples = np.linspace(0, len(source) - 1, images).astype(np.int64)
    if passed_over:
        passed_over = _each_once(passed_over)
        samples = np.array(_whole(source, samples.tolist(), passed_over), dtype=np.int64)
    if any(group.frame != "own" for group in recipe.views.values()):
        return frames_sheet(source, recipe, samples, epochs, renderer, passed_over)
    drawn = [draw_groups(recipe, epoch, samples) for epoch in range(epochs)]
    side = max(group.side for group in drawn[0])
    method = method_class(recipe.method.name)
    masked = with_masks(source) if "masks" in method.needs else None
    rows = []
    for row, sample in enumerate(samples):
        image, mask = masked.read_with_mask(int(sample)) if masked else (source.read(int(sample)), None)
        tiles = [render_plain(image, side)]
        for epoch, groups in enumerate(drawn):
            views = {group.name: _views(image, group, row, renderer) for group in groups}
            if method.PICTURES:
                batch = Batch(
                    views={name: each[None] for name, each in views.items()}, samples=torch.tensor([int(sample)]),
                    epoch=epoch, seed=recipe.seed,
                )  # fmt: skip
                tiles += [_framed(tile, side) for tile in method.pictures(recipe, batch)[0]]
                continue
            for group in groups:
                for view, parameters in zip(views[group.name], group.parameters, strict=True):
                    tiles.append(_framed(view, side))
                    if mask is not None:
                        place = geometry_of([(image.shape[1], image.shape[2])], [parameters], first_row=row)
                        tiles.append(_framed(colored(render_masks([mask], place, group.side)[0, 0]), side))
        rows.append(torch.stack(tiles))
    return make_grid(torch.cat(rows), nrow=len(rows[0]), padding=2, pad_value=255)  # type: ignore[no-any-return]


def _each_once(tell: Callable[[str], object]) -> Callable[[str], object]:
    told: set[str] = set()

    def once(reason: str) -> None:
        if reason not in told:
            told.add(reason)
            tell(reason)

    return once


def _whole(source: ImageSource, wanted: Sequence[int], passed_over: Callable[[str], object]) -> list[int]:
    """The images wanted, and in the place of a broken one the next whole one that is none of them, if it is near."""
    found: list[int] = []
    broken: list[BrokenImageError] = []
    tried = set(wanted)
    for sample in wanted:
        near = [(sample + step) % len(source) for step in range(1, min(len(source), _NEAR))]
        for candidate in (sample, *(number for number in near if number not in tried)):
            tried.add(candidate)
            try:
                source.read(candidate)
            except BrokenImageError as error:
                broken.append(error)
                continue
            found.append(candidate)
            break
    if not found:
        raise broken[0]
    for each in broken:
        passed_over(str(each))
    return found


def _views(image: Tensor, group: DrawnGroup, row: int, renderer: str) -> Tensor:
    """uint8 (count, 3, side, side) of one image."""
    render = RENDERERS[renderer].view
    return torch.stack([render(image, drawn, row, group.side, *group.forms) for drawn in group.parameters])


def _framed(view: Tensor, side: int) -> Tensor:
    before = (side - view.shape[-1]) // 2
    after = side - view.shape[-1] - before
    return pad(view, (before, after, before, after), value=255)
