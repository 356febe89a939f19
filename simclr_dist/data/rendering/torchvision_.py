"""The reference renderer: a view's parameters applied to one image with torchvision's own operations."""

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr_dist.data.views.affine_color import COLOR_OPERATIONS, affine_colors
from simclr_dist.data.views.draws import ViewParameters
from simclr_dist.data.views.geometry import blur_kernel_size, crop_box


def render_view(
    image: Tensor,
    parameters: ViewParameters,
    row: int,
    image_size: int,
    color_form: str = "exact",
    interpolation: str = "bilinear",
    out: Tensor | None = None,
) -> Tensor:
    """One view.

    Args:
        image: uint8 of shape (3, height, width).
        parameters: choices for several images; ``row`` is this one's.
        image_size: side of the view, pixels.
        color_form: ``recipe.views.color_form``.
        interpolation: ``recipe.views.interpolation``.
        out: where to write the view, if not into a new tensor.

    Returns:
        uint8 of shape (3, image_size, image_size): crop and resize, flip, colour, grayscale, blur, solarize, in
        SimCLR's order.
    """
    view = render_crop(image, parameters, row, image_size, interpolation)
    if parameters.color[row] and color_form == "affine":
        view = affine_colors(view[None], torch.from_numpy(parameters.color_mixes[row : row + 1]))[0]
    elif parameters.color[row]:
        for index in parameters.color_order[row]:
            view = _adjust(view, COLOR_OPERATIONS[index], float(parameters.color_factors[row, index]))
    if parameters.grayscale[row]:
        view = tv.rgb_to_grayscale(view, num_output_channels=3)
    kernel = blur_kernel_size(image_size)
    if parameters.blur_sigma[row] > 0 and kernel > 1:
        view = tv.gaussian_blur(view, [kernel, kernel], [float(parameters.blur_sigma[row])])
    if parameters.solarize[row]:
        view = tv.solarize(view, 128)
    return view if out is None else out.copy_(view)


def render_crop(
    image: Tensor,
    parameters: ViewParameters,
    row: int,
    image_size: int,
    interpolation: str = "bilinear",
    out: Tensor | None = None,
) -> Tensor:
    """The part of a view that changes its shape: crop, resize and flip; uint8 (3, image_size, image_size)."""
    top, left, height, width = crop_box(
        parameters.crop_attempts[row], parameters.crop_place[row], image.shape[1], image.shape[2]
    )
    crop = resize(image[:, top : top + height, left : left + width], image_size, interpolation)
    if parameters.flip[row]:
        crop = tv.horizontal_flip(crop)
    return crop if out is None else out.copy_(crop)


def render_plain(image: Tensor, image_size: int) -> Tensor:
    """The whole image without augmentation, for evaluation: the shorter side resized, the centre taken.

    Bilinear, whatever the views: two encoders are compared on the same pixels.
    """
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[:, top : top + side, left : left + side], image_size)


def resize(image: Tensor, image_size: int, interpolation: str = "bilinear") -> Tensor:
    """uint8 (3, h, w) -> (3, image_size, image_size), with antialiasing."""
    resized: Tensor = tv.resize(
        image, [image_size, image_size], interpolation=InterpolationMode(interpolation), antialias=True
    )
    return resized


def _adjust(view: Tensor, operation: str, factor: float) -> Tensor:
    if operation == "brightness":
        return view if factor == 1 else tv.adjust_brightness(view, factor)
    if operation == "contrast":
        return view if factor == 1 else tv.adjust_contrast(view, factor)
    if operation == "saturation":
        return view if factor == 1 else tv.adjust_saturation(view, factor)
    return view if factor == 0 else tv.adjust_hue(view, factor)
