"""Masks in files: PNGs of one channel, each pixel the number of its class, or SBD's MATLAB files."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from simclr_dist.data.sources.base import IGNORED
from simclr_dist.data.sources.decoding import MAX_PIXELS, check_beginning
from simclr_dist.data.sources.orientation import exif_orientation, turned
from simclr_dist.data.sources.pixels import GREY_STEPS, png_layout

_MATLAB = b"MATLAB 5.0 MAT-file"
_PNG = b"\x89PNG"
_MODES = ("P", "L", "1")
UNKNOWN = -1


def check_mask_beginning(head: bytes) -> None:
    """Refuse what its first bytes show to be no mask.

    Raises:
        UnidentifiedImageError: it is no PNG; a JPEG would have other numbers than those that were drawn.
    """
    if head.startswith(_MATLAB):
        return
    check_beginning(head)
    if not head.startswith(_PNG):
        raise UnidentifiedImageError("a mask is a PNG, whose pixels are the numbers of their classes")


def decode_mask(content: bytes, *, apply_orientation: bool) -> NDArray[np.uint8]:
    """The numbers as they are stored, shape (height, width).

    Raises:
        Exception: almost any, on damaged input; ValueError: it is no mask of one channel of at most 8 bits.
    """
    if content.startswith(_MATLAB):
        return _of_sbd(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
            if image.mode not in _MODES:
                raise ValueError(
                    f"mode {image.mode}; a mask has one channel of 8 bits (P or L), each pixel the number of its class"
                )
            layout = png_layout(image)
            stored = np.array(image).astype(np.uint8)
            # Pillow spreads greys of 2 and 4 bits over 0..255.
            stored //= np.uint8(GREY_STEPS.get(layout, 1))
            orientation = exif_orientation(image.info.get("exif", b"")) if apply_orientation else 1
    return turned(stored, orientation)


def _of_sbd(content: bytes) -> NDArray[np.uint8]:
    """Hariharan et al. 2011: the field Segmentation of the structure GTcls, as torchvision's SBDataset takes it."""
    from scipy.io import loadmat

    stored = loadmat(io.BytesIO(content))["GTcls"][0]["Segmentation"][0]
    if stored.ndim != 2 or stored.dtype != np.uint8:
        raise ValueError(f"GTcls.Segmentation is {stored.dtype} {stored.shape}, not a mask of uint8")
    return np.ascontiguousarray(stored)


def plain_values(classes: int) -> NDArray[np.int16]:
    """What each of 256 stored numbers means: a class by its number, IGNORED, or UNKNOWN."""
    values = np.full(256, UNKNOWN, dtype=np.int16)
    values[:classes] = np.arange(classes)
    values[IGNORED] = IGNORED
    return values
