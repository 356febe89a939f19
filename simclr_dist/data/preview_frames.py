"""Pictures of frames near and far, before anything is trained."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import make_grid

from simclr_dist.config import Recipe
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.times import FrameTimes, frames_of_group, times_of
from simclr_dist.data.views.groups import draw_groups

_LINE = 13  # pixels of a line of Pillow's own font
_NARROWEST = 64


def frames_sheet(
    source: ImageSource,
    recipe: Recipe,
    samples: NDArray[np.int64],
    epochs: int,
    renderer: str,
    passed_over: Callable[[str], object] | None,
) -> Tensor:
    """uint8 (3, height, width): one row a frame: itself, in each of the first epochs its views and its partner's, and
    frames that are far: the nearest that are, before and behind it, and one of another sequence.

    Below each picture stands which frame it shows: its number, or how far it is from the row's. ``passed_over``: told
    of each that cannot be read. A broken partner is the frame itself, as in a run; a far one's place is white.

    Raises:
        BrokenImageError: one of them cannot be read; with ``passed_over``: one of ``samples``.
    """

    def read(frame: int) -> Tensor | None:
        try:
            return source.read(frame)
        except BrokenImageError as error:
            if passed_over is None:
                raise
            passed_over(str(error))
            return None

    times = times_of(source)
    assert times is not None  # a recipe with partners is refused without
    side = max(group.side(recipe.data.image_size) for group in recipe.views.values())
    rows: list[list[Tensor]] = []
    for sample in samples:
        text = f"{times.sequence[sample]}: {times.frame[sample]}"
        rows.append([_labelled(render_plain(source.read(int(sample)), side), side, text)])
    for epoch in range(epochs):
        for group in draw_groups(recipe, epoch, samples):
            frames = frames_of_group(source, recipe, group.name, epoch, samples)
            for row, (sample, frame) in enumerate(zip(samples, frames, strict=True)):
                shown, picture = int(frame), read(int(frame))
                if picture is None:
                    shown, picture = int(sample), source.read(int(sample))
                for drawn in group.parameters:
                    view = RENDERERS[renderer].view(picture, drawn, row, group.side, *group.forms)
                    rows[row].append(_labelled(view, side, _relation(times, int(sample), shown)))
    keys: Any = recipe.method
    for row, sample in enumerate(samples):
        for far in far_frames(times, int(sample), getattr(keys, "negative_frames", 0)):
            if far is None or (picture := read(far)) is None:
                rows[row].append(torch.full_like(rows[row][0], 255))
            else:
                text = f"far {_relation(times, int(sample), far)}"
                rows[row].append(_labelled(render_plain(picture, side), side, text))
    tiles = torch.stack([tile for row in rows for tile in row])
    return make_grid(tiles, nrow=len(rows[0]), padding=2, pad_value=255)  # type: ignore[no-any-return]


def far_frames(times: FrameTimes, sample: int, negative_frames: int) -> list[int | None]:
    """Of what repels a frame: the nearest before it and behind it in its sequence, and one of another; None: none."""
    every = np.arange(len(times.frame))
    offset = times.frame - times.frame[sample]
    same = times.sequence == times.sequence[sample]
    found: list[int | None] = []
    for far in (same & (offset < -negative_frames), same & (offset > negative_frames)):
        found.append(int(every[far][abs(offset[far]).argmin()]) if far.any() else None)
    others = every[~same]
    found.append(int(others[sample % len(others)]) if len(others) else None)
    return found


def _relation(times: FrameTimes, sample: int, other: int) -> str:
    camera = "" if times.camera[sample] == times.camera[other] else f" cam {times.camera[other]}"
    if times.sequence[sample] != times.sequence[other]:
        return f"{times.sequence[other]}: {times.frame[other]}{camera}"
    return f"{times.frame[other] - times.frame[sample]:+d}{camera}"


def _labelled(picture: Tensor, side: int, text: str) -> Tensor:
    """The picture with a line of text below it, uint8 (3, side + a line, side or what the line needs)."""
    canvas = Image.new("RGB", (max(side, _NARROWEST), side + _LINE), "white")
    canvas.paste(Image.fromarray(picture.permute(1, 2, 0).numpy()), (0, 0))
    ImageDraw.Draw(canvas).text((1, side), text, fill="black")
    return torch.from_numpy(np.array(canvas)).permute(2, 0, 1)
