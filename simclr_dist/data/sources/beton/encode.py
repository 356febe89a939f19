"""An image as the payload of a .beton file: made smaller, then raw or a JPEG; JPEGs that fit are copied as they are."""

import zlib
from typing import NamedTuple

import simplejpeg
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.beton.encoding import RAW_BYTES, Encoding
from simclr_dist.data.sources.beton.format import JPEG, MAX_SIDE, PAGE_BYTES, RAW
from simclr_dist.data.sources.decoding import decode_jpeg
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.shards.source import ShardSource


class Encoded(NamedTuple):
    """One payload and what the metadata says of it."""

    payload: bytes
    mode: int
    width: int
    height: int
    crc: int


def encode(source: ImageSource, sample: int, encoding: Encoding) -> Encoded:
    """The payload of one image.

    Raises:
        BrokenImageError: it cannot be read, or is too large for the format.
        UserError: as the source does when it reads.
    """
    copied = _copied(source, sample, encoding)
    if copied:
        return copied
    image = _shrunk(source.read(sample), encoding.max_side)
    height, width = image.shape[1:]
    if max(height, width) > MAX_SIDE:
        raise BrokenImageError(
            f"{name(source, sample)}: {width} x {height} pixels, more than the format's {MAX_SIDE} a side"
        )
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    raw = encoding.mode == "raw" or (encoding.mode == "auto" and pixels.nbytes <= RAW_BYTES)
    payload = pixels.tobytes() if raw else simplejpeg.encode_jpeg(pixels, encoding.quality, "RGB", encoding.chroma)
    if len(payload) > PAGE_BYTES:
        raise BrokenImageError(
            f"{name(source, sample)}: its {len(payload)} bytes are more than the format's page of {PAGE_BYTES}"
        )
    return Encoded(payload, RAW if raw else JPEG, width, height, zlib.crc32(payload))


def name(source: ImageSource, sample: int) -> str:
    """What a user finds the image by, in one printable line."""
    return source.printable_name(sample) if isinstance(source, FileSource | ShardSource) else f"image {sample}"


def _copied(source: ImageSource, sample: int, encoding: Encoding) -> Encoded | None:
    """A file that is a JPEG of the wanted size already, as it is: encoding it again would cost quality."""
    if encoding.mode == "raw" or not isinstance(source, FileSource | ShardSource):
        return None
    data = source.content(sample)
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None  # no JPEG, or source.read says what is wrong
    fits = min(height, width) <= (encoding.max_side or MAX_SIDE) and max(height, width) <= MAX_SIDE
    as_raw = encoding.mode == "auto" and 3 * height * width <= RAW_BYTES
    if as_raw or not fits or len(data) > PAGE_BYTES or decode_jpeg(data) is None:
        return None
    return Encoded(data, JPEG, width, height, zlib.crc32(data))


def _shrunk(image: Tensor, max_side: int) -> Tensor:
    """The image with its shorter side at most ``max_side`` pixels, bilinear with antialiasing."""
    height, width = image.shape[1:]
    shorter = min(height, width)
    if not max_side or shorter <= max_side:
        return image
    size = [max(1, round(side * max_side / shorter)) for side in (height, width)]
    resized: Tensor = tv.resize(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    return resized
