"""Pixels in CIELAB: the lightness L, 0..100, and the colour, a (green to red) and b (blue to yellow)."""

import torch
from torch import Tensor

_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_FROM_XYZ = tuple(tuple(row) for row in torch.linalg.inv(torch.tensor(_TO_XYZ, dtype=torch.float64)).tolist())
_WHITE = (0.95047, 1.0, 1.08883)  # D65 of the 2 degree observer
_KNEE = 6 / 29


def lab_of(pixels: Tensor) -> Tensor:
    """L, a and b, (..., 3, h, w), of sRGB in 0..1, (..., 3, h, w). scikit-image's ``rgb2lab`` with its defaults."""
    linear = torch.where(pixels > 0.04045, ((pixels.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, pixels / 12.92)
    x, y, z = (_cube_root_with_line(each / white) for each, white in zip(_mixed(linear, _TO_XYZ), _WHITE, strict=True))
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-3)


def lightness_of(pixels: Tensor) -> Tensor:
    """The lightness alone as a grey image in 0..1, (..., 3, h, w), of sRGB in 0..1."""
    lightness = lab_of(pixels)[..., :1, :, :]
    return lightness.expand_as(pixels) / 100


def rgb_of(lab: Tensor) -> Tensor:
    """sRGB in 0..1, (..., 3, h, w), of L, a and b: the inverse, where a colour that no screen shows is the nearest
    corner of each channel."""
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16) / 116
    roots = (y + a / 500, y, y - b / 200)
    xyz = [
        white * torch.where(each > _KNEE, each**3, 3 * _KNEE**2 * (each - 4 / 29))
        for each, white in zip(roots, _WHITE, strict=True)
    ]
    linear = torch.stack(_mixed(torch.stack(xyz, dim=-3), _FROM_XYZ), dim=-3).clamp(0, 1)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)


def _mixed(channels: Tensor, matrix: tuple[tuple[float, ...], ...]) -> list[Tensor]:
    """Sums of the three channels. No matrix product: under autocast that would be in half precision."""
    one, two, three = channels.unbind(-3)
    return [first * one + second * two + third * three for first, second, third in matrix]


def _cube_root_with_line(share: Tensor) -> Tensor:
    return torch.where(share > _KNEE**3, share.clamp_min(_KNEE**3) ** (1 / 3), share / (3 * _KNEE**2) + 4 / 29)
