"""The images most similar to given ones: by the features of an encoder, and by raw pixels beside it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.data.loading.plain import GivenImages
from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.whole import image_name
from simclr_dist.errors import UserError
from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.knn import Blocks, nearest_rows
from simclr_dist.evaluation.source_features import SourceFeatures
from simclr_dist.evaluation.subsets import Indices
from simclr_dist.progress_bar import showing_progress
from simclr_dist.terminal import printable

PIXELS_SIDE = 16


class SmallPixels(nn.Module):
    """Raw pixels as features: uint8 (n, 3, side, side) to float32 (n, 3 * 16 * 16), means of areas, in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pixels_side", torch.tensor(PIXELS_SIDE))  # kept features are known by the state

    def forward(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images.float() / 255, PIXELS_SIDE).flatten(1)


@dataclass(frozen=True)
class Query:
    """An image whose neighbours are wanted."""

    name: str
    pixels: Tensor
    """uint8 (3, height, width)."""
    sample: int | None
    """Its number in the source that is searched; None: it is not of it."""


class Similar(NamedTuple):
    """The images found for one query, nearest first; both of shape (k,)."""

    samples: Indices
    similarities: Features


def read_queries(images: list[str], source: ImageSource, rule: PixelRule) -> list[Query]:
    """Each a file, or the name of an image of the source (the path below its folder, or its number).

    Raises:
        UserError: there is no such image, or it cannot be read.
    """
    wanted = {_path_in(source, image) or image for image in images if not _is_file_elsewhere(source, image)}
    numbers = {name: n for n in range(len(source)) if (name := image_name(source, n)) in wanted} if wanted else {}
    found = []
    for image in images:
        name = _path_in(source, image) or image
        try:
            if name in numbers:
                found.append(Query(name, source.read(numbers[name]), numbers[name]))
            elif Path(image).is_file():
                found.append(Query(image, GivenImages([Path(image)], rule).read(0), None))
            else:
                raise UserError(
                    f"IMAGE: {printable(image)}: no such file, and no image of that name among the {len(source)} images"
                )
        except BrokenImageError as error:
            raise UserError(f"IMAGE: {error}") from error
    return found


def most_similar(
    bank: SourceFeatures,
    queries: Features,
    own: list[int | None],
    k: int,
    *,
    centred: bool = False,
    talks: bool = False,
) -> list[Similar]:
    """For each of the queries (q, d) the ``k`` nearest images by cosine similarity, itself (``own``) left out.

    ``centred``: the mean of the bank is subtracted from both sides first; the cosines of raw pixels are all near one
    otherwise, whatever the images show.
    """
    count, passes = len(bank.samples), 1 + centred
    with showing_progress(passes * count, "images", "raw pixels" if centred else "search", active=talks) as progress:
        mean = np.zeros(bank.matrix.shape[1:], dtype=np.float64)
        if centred:
            for _, rows in bank.blocks():
                mean += rows.sum(axis=0, dtype=np.float64) / count
                progress(len(rows))
        middle = mean.astype(np.float32)
        least = min(k + 1, count)
        similarities, indices = nearest_rows(_less(middle, bank, progress), queries - middle, least)
    found = []
    for row, sample in enumerate(own):
        others = [n for n in range(least) if sample is None or int(indices[row, n]) != sample][:k]
        found.append(Similar(indices[row, others].numpy(), similarities[row, others].numpy()))
    return found


def _less(middle: Features, bank: SourceFeatures, progress: Callable[[int], None]) -> Blocks:
    for samples, rows in bank.blocks():
        yield samples, rows - middle
        progress(len(rows))


def _is_file_elsewhere(source: ImageSource, image: str) -> bool:
    return Path(image).is_file() and _path_in(source, image) is None


def _path_in(source: ImageSource, image: str) -> str | None:
    """The path below the source's folder of a file that lies there."""
    if not isinstance(source, FileSource) or not Path(image).is_file():
        return None
    # As it is written first: an image may be a link to where the images are kept (git-annex), outside the folder.
    for absolute in (os.path.abspath, os.path.realpath):
        root, file = Path(absolute(source.root)), Path(absolute(image))
        if file.is_relative_to(root):
            return str(file.relative_to(root))
    return None


def duplicates(pixels: list[Tensor]) -> Iterator[int | None]:
    """For each image the first one before it with the same pixels, all of them and of the same size; else None."""
    first: dict[tuple[tuple[int, ...], bytes], int] = {}
    for number, each in enumerate(pixels):
        key = tuple(each.shape), each.contiguous().numpy().tobytes()
        yield first.get(key)
        first.setdefault(key, number)
