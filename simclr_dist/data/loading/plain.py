"""Images without augmentation in batches of one fixed shape, as encoders are evaluated on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from simclr_dist.data.rendering.torchvision_ import render_plain
from simclr_dist.data.sources.base import BrokenImageError, ImageSource
from simclr_dist.data.sources.decoding import decode
from simclr_dist.data.sources.pixels import PixelRule, pixels_of
from simclr_dist.errors import UserError, first_line


class PlainBatch(NamedTuple):
    """Images without augmentation, uint8, and the rows of those that cannot be read, which are black."""

    images: Tensor
    broken: list[int]


@dataclass
class PlainBatches(Dataset[PlainBatch]):
    """batch number -> its images; the last batch is filled up with black ones."""

    source: ImageSource
    image_size: int
    batch_images: int
    leaves_out_broken: bool = False
    """Whether an image that cannot be read is no error."""

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_images)

    def __getitem__(self, batch: int) -> PlainBatch:
        count, side = self.batch_images, self.image_size
        images, broken = torch.zeros(count, 3, side, side, dtype=torch.uint8), []
        start = batch * count
        for row, sample in enumerate(range(start, min(start + count, len(self.source)))):
            try:
                images[row] = render_plain(self.source.read(sample), side)
            except BrokenImageError as error:
                if not self.leaves_out_broken:
                    raise UserError(f"every image is needed, and one is broken: {error}; mend or remove it") from error
                broken.append(row)
        return PlainBatch(images, broken)


class GivenImages:
    """A list of images in whatever form they are, as a source."""

    labels: NDArray[np.int64] | None = None

    def __init__(self, images: Sequence[Any], rule: PixelRule | None = None) -> None:
        """Paths, PIL images, uint8 arrays (height, width, 3) or uint8 tensors (3, height, width), mixed or not.

        ``rule`` is that of paths and PIL images; arrays and tensors are pixels already.
        """
        self.images, self.rule = images, rule or PixelRule()
        self.classes: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def read(self, sample: int) -> Tensor:
        """The image as uint8 (3, height, width).

        Raises:
            UserError: it is none of the forms, or of other numbers.
            BrokenImageError: its file cannot be decoded.
        """
        image, where = self.images[sample], f"image {sample}"
        if isinstance(image, (str, Path, Image.Image)):
            named = where if isinstance(image, Image.Image) else image
            try:
                if isinstance(image, Image.Image):
                    image = pixels_of(image, self.rule)
                else:
                    image = decode(Path(image).read_bytes(), self.rule)
            except Exception as error:  # almost any, as decoders do on damaged input
                raise BrokenImageError(f"{named}: {first_line(error)}") from error
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise UserError(
                    f"{where}: an array of {image.dtype} {image.shape}; give uint8 of 0..255, (height, width, 3)"
                )
            return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        if not isinstance(image, Tensor):
            raise UserError(f"{where}: {type(image).__name__} is no path, PIL image, array or tensor")
        if image.dtype != torch.uint8 or image.dim() != 3 or len(image) != 3:
            raise UserError(
                f"{where}: a tensor of {image.dtype} {tuple(image.shape)}; give uint8 of 0..255, (3, height, width)"
            )
        return image.cpu()

    def fingerprint(self) -> str:
        raise NotImplementedError("nothing is kept of images that are given one by one")
