"""The masks of views: cropped, resized and flipped as their images, each pixel's class taken from where it lies.

One way for all renderers, which share the crop's box and the flip. A pixel of the view takes the class of the source
pixel that its centre lies in (torch's "nearest-exact"), as images are resized by centres too. torch's "nearest", which
is torchvision's for masks, counts from the corners of pixels: beside its image a mask would move by up to half a pixel,
to the other side in a mirrored view.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_dist.data.views.view_geometry import ViewGeometry


def render_masks(masks: Sequence[Tensor], geometry: ViewGeometry, side: int) -> Tensor:
    """The masks of the views of n images.

    Args:
        masks: of the images, each uint8 (height, width).
        geometry: of the views in them.
        side: of the views, pixels.

    Returns:
        uint8 (n, count, side, side).
    """
    views = np.empty((*geometry.flip.shape, side, side), dtype=np.uint8)
    boxes, flips = geometry.box.numpy(), geometry.flip.numpy()
    for row, mask in enumerate(masks):
        pixels = mask.numpy()
        for view, (top, left, height, width) in enumerate(boxes[row]):
            columns = left + _centres(width, side)
            if flips[row, view]:
                columns = columns[::-1]
            # Whole rows first: a fifth of the time of taking each pixel by two indices.
            views[row, view] = pixels[top + _centres(height, side)][:, columns]
    return torch.from_numpy(views)


def _centres(size: int, side: int) -> NDArray[np.int64]:
    """For each of ``side`` pixels, in which of ``size`` its centre lies: floor((i + 1/2) * size / side), exactly."""
    return (2 * np.arange(side) + 1) * size // (2 * side)


def colored(mask: Tensor) -> Tensor:
    """A mask (height, width) in colours, uint8 (3, height, width): those of VOC's development kit, 255 nearly white."""
    return torch.from_numpy(mask_colors()[mask.cpu().numpy()]).permute(2, 0, 1)


def mask_colors() -> NDArray[np.uint8]:
    """(256, 3): the bits of a class's number in turns in red, green and blue, the lowest first in the highest bit."""
    colors, numbers = np.zeros((256, 3), dtype=np.uint8), np.arange(256)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors
