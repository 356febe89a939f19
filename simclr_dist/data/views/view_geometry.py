"""Where the views of images lie in them, as tensors that a DataLoader can send and pin."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from simclr_dist.data.views.draws import ViewParameters
from simclr_dist.data.views.geometry import crop_box


class ViewGeometry(NamedTuple):
    """Of one group of views of n images: a view is its ``box``, resized to a square and turned where ``flip`` is."""

    box: Tensor
    """int64 (n, count, 4): top, left, height and width of the crop, pixels of the source image."""
    flip: Tensor
    """bool (n, count): turned left to right after the crop was resized."""
    source: Tensor
    """int64 (n, 2): height and width of the source image."""


def geometry_of(
    sizes: Sequence[tuple[int, int]], parameters: Sequence[ViewParameters], first_row: int = 0
) -> ViewGeometry:
    """Of views drawn for images of these (height, width), from ``first_row`` on; one ``ViewParameters`` a view."""
    boxes = [
        [crop_box(each.crop_attempts[row], each.crop_place[row], *size) for each in parameters]
        for row, size in enumerate(sizes, first_row)
    ]
    flips = [torch.from_numpy(each.flip[first_row : first_row + len(sizes)]) for each in parameters]
    return ViewGeometry(
        box=torch.tensor(boxes, dtype=torch.int64).view(len(sizes), len(parameters), 4),
        flip=torch.stack(flips, dim=1),
        source=torch.tensor(sizes, dtype=torch.int64).view(len(sizes), 2),
    )
