"""From a decoded picture of any mode to RGB by a stated rule: its own range, its transparency, its orientation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.orientation import exif_orientation, turned

GROUNDS = {"white": 255, "black": 0, "grey": 128, "none": None}
_ROWS = 256
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_READ = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", *_WITH_ALPHA)
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
# A grey level that is transparent stands in a PNG in the numbers of its bits, where Pillow gives pixels of 8.
GREY_STEPS = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True)
class PixelRule:
    """What becomes of transparency and orientation: two keys of ``recipe.data``."""

    ground: int | None = 255
    """Grey level that is seen through a transparent picture; None: the colours stored below the transparency."""
    apply_orientation: bool = True

    @classmethod
    def of(cls, data: Data) -> "PixelRule":
        return cls(GROUNDS[data.transparent_ground], data.apply_orientation)

    def as_dict(self) -> dict[str, Any]:
        """By the names of the keys."""
        ground = next(name for name, level in GROUNDS.items() if level == self.ground)
        return {"transparent_ground": ground, "apply_orientation": self.apply_orientation}


def pixels_of(image: Image.Image, rule: PixelRule | None = None) -> NDArray[np.uint8]:
    """An opened image as RGB, shape (height, width, 3).

    Raises:
        ValueError: its numbers have no range that would make them colours.
    """
    rule = rule or PixelRule()
    layout = png_layout(image)
    bits, dark_is_high = _tiff_grey(image)
    image.load()
    key = image.info.get("transparency") if rule.ground is not None else None
    if image.mode.startswith("I"):
        stored, most = _whole_numbers(image, bits)
        grey = (stored.astype(np.float64) * (255 / most)).round().astype(np.uint8)
        pixels = np.repeat((255 - grey if dark_is_high else grey)[:, :, None], 3, axis=2)
        alpha = None if not isinstance(key, int) else np.where(stored == key, 0, 255).astype(np.uint8)
    elif image.mode not in _READ:
        raise ValueError(_no_range(image.mode))
    elif rule.ground is not None and (image.mode in _WITH_ALPHA or (image.mode == "P" and image.has_transparency_data)):
        whole = np.asarray(image if image.mode == "RGBA" else image.convert("RGBA"))
        pixels, alpha = whole[:, :, :3].copy(), whole[:, :, 3]
    else:
        straight = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode]) if image.mode in ("RGBa", "La") else image
        pixels = np.array(straight if straight.mode == "RGB" else straight.convert("RGB"))
        alpha = None if key is None else _alpha_of_key(pixels, key, layout)
    if alpha is not None and rule.ground is not None:
        _lay_on(pixels, alpha, rule.ground)
    # A TIFF has been turned by Pillow, which says no more of it then.
    return turned(pixels, exif_orientation(image.info.get("exif", b""))) if rule.apply_orientation else pixels


def _whole_numbers(image: Image.Image, bits: int | None) -> tuple[NDArray[Any], int]:
    """Grey levels as they stand, and the highest that there can be.

    Raises:
        ValueError: they are signed or have 32 bits, which every program scales otherwise.
    """
    if image.mode == "I" and image.format not in ("PPM", "PNG"):
        raise ValueError(_no_range("I"))
    return np.asarray(image), (1 << bits) - 1 if bits else 65535


def _no_range(mode: str) -> str:
    what = {"I": "whole numbers, signed or of 32 bits,", "F": "floating-point numbers"}.get(mode, f"mode {mode}: it")
    return f"{what} cannot be taken for colours, as no range is agreed; save it as RGB or grey of 8 or 16 bits"


def png_layout(image: Image.Image) -> str:
    """How the numbers of a PNG are stored, in Pillow's words; known before it is loaded. Of other formats ''."""
    tile = getattr(image, "tile", None)
    return str(tile[0][3]) if image.format == "PNG" and tile else ""


def _tiff_grey(image: Image.Image) -> tuple[int | None, bool]:
    """Bits of a number, and whether 0 is white, which Pillow passes over where there are more than 8."""
    if image.format != "TIFF":
        return None, False
    tags = image.tag_v2  # type: ignore[attr-defined]
    return int(np.ravel(tags.get(_TIFF_BITS, (1,)))[0]), tags.get(_TIFF_PHOTOMETRIC) == 0


def _alpha_of_key(pixels: NDArray[np.uint8], key: object, layout: str) -> NDArray[np.uint8] | None:
    """0 where a pixel has the one colour that its file calls transparent."""
    if isinstance(key, int):
        key = (key * GREY_STEPS.get(layout, 1),) * 3
    if not isinstance(key, tuple) or len(key) != 3:
        return None
    high = 8 if "16" in layout else 0  # Pillow keeps the upper byte of such colours
    color = np.array([(value >> high) & 0xFF for value in key], dtype=np.uint8)
    return np.where((pixels == color).all(axis=2), 0, 255).astype(np.uint8)


def _lay_on(pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], ground: int) -> None:
    """In place, rounded: opaque pixels stay what they are to the bit. By some rows, which bounds the memory."""
    for start in range(0, len(pixels), _ROWS):
        rows = pixels[start : start + _ROWS]
        share = alpha[start : start + _ROWS, :, None].astype(np.uint16)
        rows[:] = (rows * share + ground * (255 - share) + 127) // 255
