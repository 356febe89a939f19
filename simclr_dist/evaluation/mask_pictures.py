"""Test images beside their masks and what networks made of them, as one picture."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from simclr_dist.data.rendering.masks import colored
from simclr_dist.data.sources.base import MaskedSource
from simclr_dist.storage.atomic import write_atomically

SHOWN = 6
_SIDE, _GAP, _GREY = 160, 4, 128
_LINE = 14


def samples_shown(images: int) -> list[int]:
    """Which of the test images: evenly spread."""
    return [int(number) for number in np.unique(np.linspace(0, images - 1, min(SHOWN, images)).astype(np.int64))]


def contact_sheet(source: MaskedSource, samples: list[int], predictions: dict[str, list[Tensor]]) -> Tensor:
    """A line for each image: itself, its mask, and every prediction, in the colours of VOC's development kit.

    Args:
        source: of the images.
        samples: which.
        predictions: what stands above a column -> a mask, uint8 (height, width), for each image.

    Returns:
        uint8 (3, height, width).
    """
    read = [source.read_with_mask(sample) for sample in samples]
    columns = [[image for image, _ in read], [colored(mask) for _, mask in read]]
    columns += [[colored(mask) for mask in masks] for masks in predictions.values()]
    step = _SIDE + _GAP
    sheet = torch.full((3, _LINE + len(samples) * step, len(columns) * step), _GREY, dtype=torch.uint8)
    for column, tiles in enumerate(columns):
        for row, tile in enumerate(tiles):
            small = _fitted(tile, smooth=column == 0)
            top, left = _LINE + row * step, column * step
            sheet[:, top : top + small.shape[1], left : left + small.shape[2]] = small
    sheet[:, :_LINE] = _heads(["image", "mask", *predictions], step)
    return sheet


def write_png(path: Path, picture: Tensor) -> None:
    """Write a picture, uint8 (3, height, width), whole or not at all; one of that name is replaced."""
    content = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(content, "PNG", optimize=True)
    write_atomically(path, content.getvalue())


def _fitted(tile: Tensor, *, smooth: bool) -> Tensor:
    """Into a square of _SIDE, its shape kept; masks are not mixed."""
    height, width = tile.shape[1:]
    size = [max(1, round(each * _SIDE / max(height, width))) for each in (height, width)]
    kind = tv.InterpolationMode.BILINEAR if smooth else tv.InterpolationMode.NEAREST_EXACT
    fitted: Tensor = tv.resize(tile, size, interpolation=kind, antialias=smooth)
    return fitted


def _heads(names: list[str], step: int) -> Tensor:
    image = Image.new("RGB", (step * len(names), _LINE), "white")
    draw = ImageDraw.Draw(image)
    for number, name in enumerate(names):
        draw.text((number * step + 2, 1), name, fill="black")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
