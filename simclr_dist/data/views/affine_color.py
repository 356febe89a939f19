"""The affine form of the colour operations: one 3x4 matrix an image instead of up to four passes.

On colours x in 0..255 as real numbers, g(x) = 0.2989 R + 0.587 G + 0.114 B and m the mean of g over the view,

    brightness  x -> f x
    contrast    x -> f x + (1 - f) m
    saturation  x -> f x + (1 - f) g(x)
    hue         x -> x turned by 2 pi h around the gray axis, from red towards green

in the image's order, without rounding or clamping between them. Each is linear in x and in the mean colour of the
view, so their composition is too: its matrix needs the mean of the original pixels alone, once. Grayscale is not part
of it: after the clamp, as in the exact form, it differs from that one less, and it costs little.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COLOR_OPERATIONS = ("brightness", "contrast", "saturation", "hue")
NEUTRAL_FACTORS = (1.0, 1.0, 1.0, 0.0)
"""The factor with which each colour operation changes nothing."""

# Lightness along the gray axis, then two chroma axes, red on the first. In the chroma plane of YIQ instead, where red,
# green and blue are not 120 degrees apart, a turn is further from HSV's hue shift (10 against 6 of 255, photos,
# h <= 0.2).
_TO_CHROMA = np.array([[2, 2, 2], [4, -2, -2], [0, -(12**0.5), 12**0.5]]) / 6
_FROM_CHROMA = np.linalg.inv(_TO_CHROMA)
_IDENTITY = np.eye(3)
_CHROMA = np.diag([0.0, 1.0, 1.0])
_TURN = np.array([[0.0, 0, 0], [0, 0, 1], [0, -1, 0]])
_GRAY = np.tile([0.2989, 0.587, 0.114], (3, 1))
"""Every row is g."""


def color_mixes(color: NDArray[np.bool_], order: NDArray[np.int8], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each image's colours become: columns 0..2 multiply the pixel, columns 3..5 the mean colour of the view.

    Args:
        color: (n,), whether the operations are applied.
        order: (n, 4), of indices into COLOR_OPERATIONS.
        factors: (n, 4), as in :class:`~simclr_dist.data.views.ViewParameters`.

    Returns:
        (n, 3, 6); independent of the pixels.
    """
    used = np.where(color[:, None], factors, NEUTRAL_FACTORS)
    of_pixel = np.broadcast_to(_IDENTITY, (len(used), 3, 3))
    of_mean = np.zeros_like(of_pixel)
    for slot in range(len(COLOR_OPERATIONS)):
        operation = order[:, slot].astype(np.int64)
        pixel, mean = _operation(operation, np.take_along_axis(used, operation[:, None], axis=1)[..., None])
        of_pixel, of_mean = pixel @ of_pixel, pixel @ of_mean + mean @ (of_pixel + of_mean)
    return np.concatenate((of_pixel, of_mean), axis=2)


def _operation(
    operation: NDArray[np.int64], factor: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 3, 3) twice: what n operations do to a pixel and to the mean; ``factor`` is (n, 1, 1)."""
    scaled, rest = factor * _IDENTITY, (1 - factor) * _GRAY
    # Hues go red, green, blue in HSV, which is from the first axis against the second. Written as what the turn adds to
    # the identity, so that a shift of 0 is exactly nothing.
    angle = 2 * math.pi * factor
    turned = _IDENTITY + _FROM_CHROMA @ ((np.cos(angle) - 1) * _CHROMA + np.sin(angle) * _TURN) @ _TO_CHROMA
    name = [(operation == index)[:, None, None] for index in range(len(COLOR_OPERATIONS))]
    is_contrast, is_saturation, is_hue = (name[COLOR_OPERATIONS.index(n)] for n in ("contrast", "saturation", "hue"))
    pixel = np.where(is_hue, turned, np.where(is_saturation, scaled + rest, scaled))
    return pixel, np.where(is_contrast, rest, 0.0)


def affine_colors(images: Tensor, mixes: Tensor) -> Tensor:
    """The colours mixed, clamped to 0..255 and rounded to the nearest whole number (halves to the even one).

    Args:
        images: uint8 of shape (n, 3, height, width).
        mixes: of :func:`color_mixes`, (n, 3, 6) or (n, 18), float64, on the images' device.

    Returns:
        uint8 of the shape of ``images``. An image's pixels do not depend on the images beside it: the sum of its
        pixels is a whole number and exact in any order.
    """
    pixels = images.shape[-2] * images.shape[-1]
    mean_rgb = images.sum(dim=(-2, -1), dtype=torch.int64).to(torch.float64) / pixels
    matrices = color_matrices(mixes.view(-1, 3, 6), mean_rgb).to(torch.float32)[..., None, None]
    colors = images.to(torch.float32)
    mixed = (colors[:, :1] * matrices[:, :, 0]).add_(matrices[:, :, 3])
    mixed.addcmul_(colors[:, 1:2], matrices[:, :, 1]).addcmul_(colors[:, 2:], matrices[:, :, 2])
    return mixed.clamp_(0, 255).round_().to(torch.uint8)


def color_matrices(mixes: Tensor, mean_rgb: Tensor) -> Tensor:
    """The matrices whose product with (R, G, B, 1) are the new colours, before clamping and rounding.

    Args:
        mixes: (n, 3, 6).
        mean_rgb: (n, 3), the mean colour of each view in 0..255.

    Returns:
        (n, 3, 4).
    """
    offset = (mixes[:, :, 3:] * mean_rgb[:, None]).sum(dim=2, keepdim=True)
    return torch.cat((mixes[:, :, :3], offset), dim=2)
