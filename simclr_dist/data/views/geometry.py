"""Where a crop lies and how large a blur is, in pixels of an image."""

import math

import numpy as np
from numpy.typing import NDArray

ASPECT_RATIOS = (3 / 4, 4 / 3)


def crop_box(
    attempts: NDArray[np.float64], place: NDArray[np.float64], height: int, width: int
) -> tuple[int, int, int, int]:
    """(top, left, height, width) in pixels of the crop from an image of that size.

    As torchvision's RandomResizedCrop: the first of ten attempts that fits, else the largest centred crop of an
    allowed aspect ratio. Arguments are one row of :class:`ViewParameters`. (numba compiles this function too.)
    """
    for area, ratio in attempts:
        crop_width = round(math.sqrt(height * width * area * ratio))
        crop_height = round(math.sqrt(height * width * area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(place[0] * (height - crop_height + 1)), int(place[1] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, max(1, round(height * ASPECT_RATIOS[1])))
    crop_height = min(height, max(1, round(width / ASPECT_RATIOS[0])))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def blur_kernel_size(image_size: int) -> int:
    """Side of the blur kernel, pixels: 10 % of the image, made odd as in the official code (224 -> 23)."""
    return 2 * (image_size // 10 // 2) + 1
