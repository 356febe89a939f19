"""What a folder of pictures holds: how many in which classes, how large, grey, with alpha, turned."""

import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from simclr_dist.config.recipe import Data
from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.decoding import MAX_PIXELS, check_beginning
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.named import open_source
from simclr_dist.errors import UserError, first_line
from simclr_dist.terminal import printable

MOST_HEADERS = 1000
MOST_PIXELS_READ = 24
"""Pictures that are decoded, to see whether there is colour in them."""
_MOST_SECONDS = 10.0  # of each of the two looks: a slow disk must not make a newcomer wait
_ORIENTATION = 0x0112  # EXIF: 1 is upright
_WITH_EXIF = ("JPEG", "TIFF", "WEBP")  # of a PNG the whole picture would be decoded to find it


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What was found. Shares are of the pictures looked at."""

    path: Path
    count: int
    """Pictures that pretraining sees."""
    classes: dict[str, int]
    """Class -> pictures of it that evaluation learns from; empty: no labels."""
    remarks: tuple[str, ...]
    """What was left out, and why."""
    held_out: int
    """Pictures that evaluation asks about; 0: there is no such split."""
    looked_at: int
    """Pictures whose headers were read."""
    short_sides: tuple[int, int, int]
    """Pixels of the shorter side: smallest, median, largest."""
    mean_pixels: float
    """Of a picture that is not too large to be read."""
    alpha: float
    turned: float
    """Share with an EXIF orientation other than upright."""
    grey: bool
    """No colour in any picture that was decoded."""
    unreadable: list[str]
    """Name and reason, of those looked at."""


@dataclass(frozen=True)
class _Header:
    short_side: int
    pixels: int
    alpha: bool
    turned: bool


def look_at_pictures(path: Path, done: Callable[[int], None] = lambda count: None) -> tuple[Pictures, FileSource]:
    """What the folder holds, and its pictures as pretraining opens them.

    Args:
        path: the folder.
        done: called with the number of pictures just looked at.

    Raises:
        UserError: there is no such folder, it holds fewer than two pictures, or none that was tried can be read.
    """
    data = Data(source="folder", path=str(path))
    source = open_source(data, Shards())
    assert isinstance(source, FileSource)
    if len(source) < 2:
        raise UserError(f"{path}: one picture alone has no negatives; contrastive pretraining needs thousands")
    headers, unreadable = [], []
    for sample in _spread(len(source), MOST_HEADERS):
        try:
            headers.append(_header(os.path.join(source.root, source.name(sample))))
        except Exception as error:  # Pillow's parsers raise almost anything on damaged input
            unreadable.append(f"{source.printable_name(sample)}: {first_line(error)}")
        done(1)
    if not headers:
        raise UserError(f"{printable(str(path))}: no picture of those tried can be read, the first: {unreadable[0]}")
    sides = sorted(header.short_side for header in headers)
    # Stray pictures beside the class folders take the labels from pretraining, but not from evaluation.
    labelled = source if source.labels is not None else _split(data, "train")
    numbers = Counter(labelled.labels.tolist()) if labelled and labelled.labels is not None else {}
    return Pictures(
        path=path,
        count=len(source),
        classes={labelled.classes[label]: count for label, count in sorted(numbers.items())} if labelled else {},
        remarks=tuple((labelled or source).remarks),
        held_out=len(_split(data, "test") or ()),
        looked_at=len(headers) + len(unreadable),
        short_sides=(sides[0], sides[len(sides) // 2], sides[-1]),
        mean_pixels=_mean_pixels(headers),
        alpha=sum(header.alpha for header in headers) / len(headers),
        turned=sum(header.turned for header in headers) / len(headers),
        grey=_is_grey(source, done),
        unreadable=unreadable,
    ), source  # fmt: skip


def mean_pixels(source: FileSource, samples: Sequence[int]) -> float:
    """Of those of the pictures that can be read; 0: of none."""
    headers = []
    for sample in samples:
        with suppress(Exception):  # as above
            headers.append(_header(os.path.join(source.root, source.name(sample))))
    return _mean_pixels(headers)


def _mean_pixels(headers: Sequence[_Header]) -> float:
    pixels = [header.pixels for header in headers if header.pixels <= MAX_PIXELS]
    return sum(pixels) / max(1, len(pixels))


def _spread(count: int, most: int) -> Iterator[int]:
    """Up to ``most`` of the numbers below ``count``, evenly spread but in another order: those of the first seconds,
    when there is no time for all, are then of the whole set too."""
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))
    until = time.monotonic() + _MOST_SECONDS
    for number, sample in enumerate(np.random.default_rng(0).permutation(chosen).tolist()):
        if number and time.monotonic() > until:
            return
        yield sample


def _header(path: str) -> _Header:
    if not os.path.isfile(path):
        raise OSError("not a regular file")
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's advice on sizes that decoding.MAX_PIXELS allows
        check_beginning(file.read(64))
        file.seek(0)
        with Image.open(file) as image:
            turned = image.format in _WITH_EXIF and image.getexif().get(_ORIENTATION, 1) not in (0, 1)
            alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
            return _Header(min(image.size), math.prod(image.size), alpha, turned)


def _is_grey(source: ImageSource, done: Callable[[int], None]) -> bool:
    found = 0
    for sample in _spread(len(source), MOST_PIXELS_READ):
        try:
            pixels = source.read(sample).int()
        except BrokenImageError:
            continue
        found += 1
        done(0)
        # Two of 255 in the mean: a grey picture that was saved as a colour JPEG is not grey to the last bit.
        if float((pixels - pixels.roll(1, 0)).abs().float().mean()) > 2:
            return False
    return found > 0


def _split(data: Data, split: str) -> FileSource | None:
    try:
        source = open_source(data, Shards(), split)
    except UserError:
        return None
    assert isinstance(source, FileSource)
    return source
