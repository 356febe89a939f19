"""From the bytes of an image file to its pixels, within stated bounds: JPEGs by libjpeg-turbo, all else by Pillow.

What is readable decides which images a run sees, so the formats and the bounds are stated here and are nobody else's.
"""

import io
import re
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from simclr_dist.data.sources.orientation import jpeg_orientation, turned
from simclr_dist.data.sources.pixels import PixelRule, pixels_of

MAX_PIXELS = 178_956_970
"""What Pillow 13 refuses by itself. A header may promise any number in a few bytes, and a decoder would believe it."""

# Pillow looks before it allocates, also where only the decoder sees the size (tiles of a TIFF, the canvas of a WebP).
# It refuses what is more than twice this, which any other module might have changed or switched off.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2

# Not all that Pillow knows: it would run Ghostscript on PostScript, and take noise for a format without a signature.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_BEGINNING = re.compile(rb"\xff\xd8|\x89PNG|GIF8|BM|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|P[1-6fFy]", re.DOTALL)


def check_beginning(head: bytes) -> None:
    """Refuse what its first bytes show to be no image.

    Raises:
        UnidentifiedImageError: it is none.
    """
    if not _BEGINNING.match(head):
        raise UnidentifiedImageError("empty file" if not head else f"begins like none of {', '.join(_FORMATS)}")


def decode(content: bytes, rule: PixelRule | None = None) -> NDArray[np.uint8]:
    """The pixels as RGB by a rule, shape (height, width, 3); of several frames the first.

    Raises:
        MemoryError: there is not enough for them.
        Exception: almost any, as Pillow's decoders do on damaged input.
    """
    check_beginning(content)
    rule = rule or PixelRule()
    pixels = decode_jpeg(content)
    if pixels is None:
        return _decode_by_pillow(content, rule)
    return turned(pixels, jpeg_orientation(content)) if rule.apply_orientation else pixels


def decode_jpeg(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Pillow's pixels in half of its time, as they are stored, shape (height, width, 3); None when only Pillow can
    decode the data or say what is wrong with it: no JPEG, damaged, CMYK, or too large.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    import simplejpeg  # not above: whoever has no JPEGs needs it not, and it may be missing where nothing is installed

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    return pixels


def _decode_by_pillow(content: bytes, rule: PixelRule) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        # Pillow's advice on sizes, palettes and metadata would be printed by every worker of every process.
        warnings.simplefilter("ignore")
        with _opened(content) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{width} x {height} pixels, more than {MAX_PIXELS}")
            return pixels_of(image, rule)


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=_FORMATS)
    except UnidentifiedImageError:
        # Pillow's message names an address in memory, another one in each process.
        raise UnidentifiedImageError("damaged at its beginning") from None
