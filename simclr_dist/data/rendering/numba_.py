"""The fast renderer: the reference's pixels (render.py) from loops that numba compiled."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_dist.data.rendering import kernels
from simclr_dist.data.rendering.kernels import blur, colors, compiled, geometry
from simclr_dist.data.rendering.kernels.turns import beside, one_after_another
from simclr_dist.data.views.draws import ViewParameters
from simclr_dist.data.views.geometry import blur_kernel_size, crop_box

_crop_box = compiled(crop_box)
_NO_MIX = np.zeros((3, 6))


def render_view(
    image: Tensor,
    parameters: ViewParameters,
    row: int,
    image_size: int,
    color_form: str = "exact",
    interpolation: str = "bilinear",
    out: Tensor | None = None,
) -> Tensor:
    """As :func:`simclr_dist.data.rendering.torchvision_.render_view`."""
    view = torch.empty(3, image_size, image_size, dtype=torch.uint8) if out is None else out
    crop = _crop_choices(parameters, row, interpolation)
    colors_ = _color_choices(parameters, row, image_size, color_form)
    _view(_interleaved(image), *crop, view.numpy(), *colors_)
    return view


def prepare(image: Tensor, parameters: ViewParameters, row: int, image_size: int) -> None:
    """Compile all that the two functions need: in another process crops, here the rest, which then finds them kept."""
    if not kernels.is_kept or _is_compiled():
        render_view(image, parameters, row, image_size)
        return
    with one_after_another(kernels.DIGEST):
        with beside(partial(render_crop, image, parameters, row, image_size)):
            view = np.zeros((3, image_size, image_size), np.uint8)
            _color(view, *_color_choices(parameters, row, image_size, "exact"))
        render_view(image, parameters, row, image_size)


def _is_compiled() -> bool:
    """Whether a start before has left the whole of it in numba's folder: then there is nothing to wait for."""
    return any(Path(_view.stats.cache_path).glob(f"*{_view.__qualname__}-*.nbi"))


def render_crop(
    image: Tensor,
    parameters: ViewParameters,
    row: int,
    image_size: int,
    interpolation: str = "bilinear",
    out: Tensor | None = None,
) -> Tensor:
    """As :func:`simclr_dist.data.rendering.torchvision_.render_crop`."""
    view = torch.empty(3, image_size, image_size, dtype=torch.uint8) if out is None else out
    _crop(_interleaved(image), *_crop_choices(parameters, row, interpolation), view.numpy())
    return view


def _crop_choices(parameters: ViewParameters, row: int, interpolation: str) -> tuple[Any, ...]:
    bicubic = interpolation == "bicubic"
    return parameters.crop_attempts[row], parameters.crop_place[row], parameters.flip[row], bicubic


def _color_choices(parameters: ViewParameters, row: int, image_size: int, color_form: str) -> tuple[Any, ...]:
    affine = color_form == "affine"
    return (
        parameters.color[row],
        parameters.color_order[row],
        parameters.color_factors[row],
        affine,
        parameters.color_mixes[row] if affine else _NO_MIX,
        parameters.grayscale[row],
        parameters.blur_sigma[row],
        blur_kernel_size(image_size),
        parameters.solarize[row],
    )


def _interleaved(image: Tensor) -> NDArray[np.uint8]:
    """(height, width, 3), as decoders leave images: only others are copied."""
    pixels: NDArray[np.uint8] = image.permute(1, 2, 0).contiguous().numpy()
    return pixels


@compiled
def views_of_row(image, row, parameters, first, taps, affine, bicubic, colored, out):  # type: ignore[no-untyped-def]
    """All views of one group of an image, for loops that are compiled themselves.

    ``parameters``: the fields of ViewParameters in their order and ``color_mixes``, each with leading dimensions
    (images, views of all groups); the group's begin at ``first``. ``out``: uint8 (images, views of the group, 3, side,
    side), of which row ``row`` is written; crops alone unless ``colored``.
    """
    attempts, place, flip, color, order, factors, grayscale, sigma, solarize, mixes = parameters
    for view in range(out.shape[1]):
        v = first + view
        if colored:
            _view(
                image, attempts[row, v], place[row, v], flip[row, v], bicubic, out[row, view],
                color[row, v], order[row, v], factors[row, v], affine, mixes[row, v],
                grayscale[row, v], sigma[row, v], taps, solarize[row, v],
            )  # fmt: skip
        else:
            _crop(image, attempts[row, v], place[row, v], flip[row, v], bicubic, out[row, view])


@compiled
def _crop(image, attempts, place, flip, bicubic, out):  # type: ignore[no-untyped-def]
    top, left, height, width = _crop_box(attempts, place, image.shape[0], image.shape[1])
    geometry.crop_and_resize(image, top, left, height, width, flip, bicubic, out)


@compiled
def _view(  # type: ignore[no-untyped-def]
    image, attempts, place, flip, bicubic, out, color, order, factors, affine, mix, grayscale, sigma, taps, solarize
):
    _crop(image, attempts, place, flip, bicubic, out)
    _color(out, color, order, factors, affine, mix, grayscale, sigma, taps, solarize)


@compiled
def _color(image, color, order, factors, affine, mix, grayscale, sigma, taps, solarize):  # type: ignore[no-untyped-def]
    planes = image.reshape(3, -1)
    if color and affine:
        colors.mix_colors(planes, mix)
    elif color:
        for index in order:
            factor = factors[index]
            if index == 0 and factor != 1:
                colors.adjust_brightness(planes, factor)
            if index == 1 and factor != 1:
                colors.adjust_contrast(planes, factor)
            if index == 2 and factor != 1:
                colors.adjust_saturation(planes, factor)
            if index == 3 and factor != 0:
                colors.adjust_hue(planes, factor)
    if grayscale:
        colors.to_grayscale(planes)
    if sigma > 0 and taps > 1:
        blur.gaussian_blur(image, sigma, taps)
    if solarize:
        colors.solarize(planes, 128)
