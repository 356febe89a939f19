"""The colour part of views on the training device: a whole batch of uint8 crops, from the recipe's own choices.

The same operations as torchvision_.py, in the same float32 arithmetic and with uint8 after each of them. On a CPU
everything but the blur has the reference's bits; the blur, summed in another order, differs from it by 1 in about one
pixel of 50,000. An image's bits depend on nothing beside it, so not on the batch nor on the number at once.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional as tv

from simclr_dist.data.views.affine_color import COLOR_OPERATIONS, NEUTRAL_FACTORS, affine_colors, color_mixes
from simclr_dist.data.views.color_choices import ColorChoices
from simclr_dist.data.views.geometry import blur_kernel_size

BYTES_PER_PIXEL_AT_ONCE = 80
_Operation = Callable[[Tensor, Tensor], Tensor]
"""(uint8 images (m, 3, s, s), their numbers (m, k) in float64) -> uint8 images."""


def bytes_at_once(image_size: int, images_at_once: int) -> int:
    """Upper bound of what :func:`render_colors` allocates beside its result, in bytes: 4 MB an image at 224 px.

    The hue shift needs most, some eighteen float32 values a pixel, and all images may take it at the same place of
    their order. The result itself is 3 bytes a pixel, for the whole batch.
    """
    return BYTES_PER_PIXEL_AT_ONCE * image_size**2 * images_at_once


def render_colors(crops: Tensor, choices: ColorChoices, color_form: str = "exact", images_at_once: int = 64) -> Tensor:
    """Colour operations, grayscale, blur and solarize of crops that are already resized and flipped.

    Args:
        crops: uint8 of shape (..., 3, s, s) on any device, with one leading dimension at least; left as they are.
        choices: on the CPU, with the same leading dimensions.
        color_form: ``recipe.views.color_form``.
        images_at_once: bounds the memory (:func:`bytes_at_once`), without effect on the result.

    Returns:
        uint8 of the shape of ``crops``, on their device. The host never waits for the device.
    """
    flat = ColorChoices(*(each.flatten(0, crops.dim() - 4) for each in choices))
    images = crops.flatten(0, -4).clone(memory_format=torch.contiguous_format)
    # Every image goes through its own four operations in its own order. Computing all four in each place of the order
    # and selecting with torch.where would need no indices but four times the arithmetic, on any device. Here the host,
    # which has the choices, lists the rows of each (place, operation): each operation runs once an image, in launches
    # whose sizes the host knows. All lists cross to the device in one copy.
    plan = [
        (operation, rows, numbers[rows].flatten())
        for operation, chosen, numbers in _operations(flat, color_form, blur_kernel_size(images.shape[-1]))
        for rows in chosen.nonzero()[:, 0].split(images_at_once)
        if len(rows)
    ]
    if not plan:
        return images.view(crops.shape)
    all_rows = _send([rows for _, rows, _ in plan], images.device)
    all_numbers = _send([numbers for _, _, numbers in plan], images.device)
    for (operation, _, _), rows, numbers in zip(plan, all_rows, all_numbers, strict=True):
        _put_rows(images, rows, operation(images.index_select(0, rows), numbers.view(len(rows), -1)))
    return images.view(crops.shape)


def _put_rows(images: Tensor, rows: Tensor, values: Tensor) -> None:
    """No row stands twice in ``rows``, so the copy is deterministic as it is. In deterministic mode torch would sort
    the rows first on a GPU, some fifteen launches more for each of the many copies of a batch."""
    deterministic, warns = torch._C._get_deterministic_algorithms(), torch._C._get_deterministic_algorithms_warn_only()
    torch._C._set_deterministic_algorithms(False)
    try:
        images.index_copy_(0, rows, values)
    finally:
        torch._C._set_deterministic_algorithms(deterministic, warn_only=warns)


def _send(parts: list[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    joined = torch.cat(parts)
    if device.type == "cuda":
        joined = joined.pin_memory()  # from pageable memory the copy would wait for all that is queued on the device
    pieces: tuple[Tensor, ...] = joined.to(device, non_blocking=True).split([len(part) for part in parts])
    return pieces


def _operations(
    choices: ColorChoices, color_form: str, kernel_size: int
) -> Iterator[tuple[_Operation, Tensor, Tensor]]:
    """In order: an operation, which of the n images take it, and its numbers (n, k) for all of them."""
    nothing = torch.empty(len(choices.color), 0, dtype=torch.float64)
    if color_form == "affine":
        mixes = color_mixes(choices.color.numpy(), choices.color_order.numpy(), choices.color_factors.numpy())
        yield affine_colors, choices.color, torch.from_numpy(mixes).flatten(1)
    else:
        factors = choices.color_factors
        active = choices.color[:, None] & (factors != torch.tensor(NEUTRAL_FACTORS, dtype=factors.dtype))
        for place in range(len(COLOR_OPERATIONS)):
            for index, name in enumerate(COLOR_OPERATIONS):
                blend = torch.stack((factors[:, index], 1.0 - factors[:, index]), dim=1)
                yield _ADJUST[name], active[:, index] & (choices.color_order[:, place] == index), blend
    yield _grayscale, choices.grayscale, nothing
    if kernel_size > 1:
        yield _blur, choices.blur_sigma > 0, _gaussian_kernels(choices.blur_sigma, kernel_size)
    yield _solarize, choices.solarize, nothing


def _brightness(images: Tensor, blend: Tensor) -> Tensor:
    return (images * _each(blend)[0]).clamp_(0, 255).to(torch.uint8)


def _contrast(images: Tensor, blend: Tensor) -> Tensor:
    gray = tv.rgb_to_grayscale(images)
    # The sum of whole numbers is exact in any order; torchvision's, in float32, is too up to 256 x 256 pixels.
    mean = gray.sum(dim=(1, 2, 3), dtype=torch.int64).to(torch.float64) / gray[0].numel()
    return _blended(images, mean.to(torch.float32)[:, None, None, None], blend)


def _saturation(images: Tensor, blend: Tensor) -> Tensor:
    return _blended(images, tv.rgb_to_grayscale(images).to(torch.float32), blend)


def _blended(images: Tensor, other: Tensor, blend: Tensor) -> Tensor:
    """factor * image + (1 - factor) * other, truncated; addcmul rounds once, as torchvision's add with alpha does."""
    factor, rest = _each(blend)
    return (images * factor).addcmul_(other, rest).clamp_(0, 255).to(torch.uint8)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Through HSV in float32, as torchvision; but the new colours are picked among four as uint8, to move less."""
    colors = images.to(torch.float32).mul_(1.0 / 255.0)
    red, green, _ = colors.unbind(1)
    low, value = torch.aminmax(colors, dim=1)
    spread = value - low
    is_gray = spread == 0
    saturation = spread / value.masked_fill(is_gray, 1.0)
    distances = (value[:, None] - colors).div_(spread.masked_fill_(is_gray, 1.0)[:, None])
    from_red, from_green, from_blue = distances.unbind(1)
    sixths = torch.where(
        value == red,
        from_blue - from_green,
        torch.where(value == green, (from_red + 2.0).sub_(from_blue), (from_green + 4.0).sub_(from_red)),
    )
    turns = sixths.mul_(1.0 / 6.0).add_(1.0).fmod_(1.0).add_(_each(shift)[0][:, 0]).remainder_(1.0)
    place = turns.mul_(6)
    sector = place.floor()
    part = place.sub_(sector)
    sector.remainder_(6)
    without, part = 1.0 - saturation, saturation.mul_(part)
    falling = _to_uint8((1.0 - part).mul_(value))
    rising = _to_uint8(part.add_(without).mul_(value))
    lowest, highest = _to_uint8(without.mul_(value)), _to_uint8(value)
    # Red in the six sectors is highest, falling, lowest, lowest, rising, highest; green two later, blue four.
    in_sector = [sector == index for index in range(6)]
    channels = []
    for first in (0, 2, 4):
        top, fall, rise, end = (in_sector[(first + index) % 6] for index in (0, 1, 4, 5))
        channel = torch.where(fall, falling, torch.where(rise, rising, lowest))
        channels.append(torch.where(top | end, highest, channel))
    return torch.stack(channels, dim=1)


def _to_uint8(share: Tensor) -> Tensor:
    """In place: 0..1 to 0..255 as torchvision's ``to_dtype``, which multiplies by a little less than 256."""
    return share.clamp_(0.0, 1.0).mul_(256.0 - 1e-3).to(torch.uint8)


def _grayscale(images: Tensor, _: Tensor) -> Tensor:
    gray: Tensor = tv.rgb_to_grayscale(images, num_output_channels=3)
    return gray


def _solarize(images: Tensor, _: Tensor) -> Tensor:
    inverted: Tensor = tv.solarize(images, 128)
    return inverted


def _blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Column-wise, then row-wise, with each image's kernel (m, k) and reflected borders.

    Taps are summed one by one: a convolution or a matrix product would choose its algorithm, and TF32, by the size of
    the batch, and with it an image's bits.
    """
    taps = _each(kernels)
    half, side = len(taps) // 2, images.shape[-1]
    blurred = pad(images.to(torch.float32), (half, half, half, half), mode="reflect")
    for dim in (-2, -1):
        padded, blurred = blurred, blurred.narrow(dim, 0, side) * taps[0]
        for offset, tap in enumerate(taps[1:], start=1):
            blurred.addcmul_(padded.narrow(dim, offset, side), tap)
    return blurred.round_().to(torch.uint8)


def _gaussian_kernels(sigma: Tensor, size: int) -> Tensor:
    """(n, size): torchvision's kernel of each sigma, made on the host so that all devices use the same."""
    limit = (size - 1) / (2.0 * math.sqrt(2.0))
    x = torch.linspace(-limit, limit, steps=size)
    widths = torch.where(sigma > 0, sigma, 1.0).to(torch.float32)
    return torch.softmax(-((x / widths[:, None]) ** 2), dim=1).to(torch.float64)


def _each(numbers: Tensor) -> tuple[Tensor, ...]:
    """(m, k) float64 -> k tensors of shape (m, 1, 1, 1), float32."""
    return numbers.to(torch.float32)[..., None, None, None].unbind(1)


_ADJUST: dict[str, _Operation] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
}
