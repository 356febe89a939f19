"""Images in files: found below a folder, decoded when they are read: JPEGs by libjpeg-turbo, all else by Pillow."""

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from simclr_dist.data.source import BrokenImageError
from simclr_dist.errors import first_line

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


class FileSource:
    """Images in files.

    The names stand in one block of bytes, not in a list: a list of a million strings would be copied, page by page,
    into every loader worker as its reference counts are touched.
    """

    def __init__(self, root: Path, names: list[str], labels: list[int] | None, classes: list[str]) -> None:
        """``names`` are paths below ``root``."""
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.labels: NDArray[np.int64] | None = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.classes = classes

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, sample: int) -> str:
        start = self._ends[sample - 1] if sample else 0
        return os.fsdecode(self._names[start : self._ends[sample]].tobytes())

    def read(self, sample: int) -> Tensor:
        try:
            pixels = decode(os.path.join(self.root, self.name(sample)))
        except Exception as error:  # Pillow's decoders raise almost anything on damaged input
            # A name may hold any bytes but must be printable in one line.
            name = ascii(self.name(sample))[1:-1]
            raise BrokenImageError(f"{name}: {type(error).__name__}: {first_line(error)}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def fingerprint(self) -> str:
        return hashlib.sha256(self._ends.tobytes() + self._names.tobytes()).hexdigest()


def decode(path: str | Path) -> NDArray[np.uint8]:
    """The pixels of a file as RGB, shape (height, width, 3)."""
    with open(path, "rb", buffering=0) as file:
        pixels = decode_jpeg(file.readall())
    if pixels is not None:
        return pixels
    with warnings.catch_warnings(), Image.open(path) as image:
        # Pillow's advice on odd palettes would be printed by every worker of every process.
        warnings.simplefilter("ignore", UserWarning)
        if image.mode.startswith("I"):  # 16-bit grey: Pillow would cut off at 255 instead of scaling
            grey = (np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        return np.array(image.convert("RGB"))


def decode_jpeg(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Pillow's pixels in half of its time, shape (height, width, 3); None when only Pillow can decode the data or say
    what is wrong with it: no JPEG, damaged, CMYK, or suspiciously large.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK") or height * width > (Image.MAX_IMAGE_PIXELS or height * width):
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
    except ValueError:
        return None
    return pixels


def find_images(root: Path) -> list[str]:
    """Paths below ``root`` of all image files at any depth, sorted; links are followed, but no folder twice."""
    found: list[str] = []
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above, or a second way to one: an image must not come twice
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        inside = os.path.relpath(folder, root)
        found += [
            os.path.normpath(os.path.join(inside, name)) for name in files if name.lower().endswith(IMAGE_SUFFIXES)
        ]
    return sorted(found)
