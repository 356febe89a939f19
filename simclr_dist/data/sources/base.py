"""What a source of images is: a numbered set, read one at a time, each named so that a broken one can be found."""

import hashlib
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORED = 255
"""The value of a mask where no class counts."""


class BrokenImageError(Exception):
    """An image that cannot be read; the message is its name and the reason."""


class ImageSource(Protocol):
    """A numbered set of images."""

    labels: NDArray[np.int64] | None
    """Class of each image, or None."""
    classes: list[str]
    """Names of the classes; empty when there are none."""

    def __len__(self) -> int:
        """Number of images."""

    def read(self, sample: int) -> Tensor:
        """The image as uint8 of shape (3, height, width).

        Raises:
            BrokenImageError: it cannot be decoded.
        """

    def fingerprint(self) -> str:
        """Changes when the set of images changes, not with a copy: of files' names and sizes, of a sample of pixels."""


class MaskedSource(ImageSource, Protocol):
    """Images with the class of each of their pixels."""

    mask_classes: list[str]
    """Names of the classes of pixels, 255 at most; a mask holds their places in this list, or IGNORED."""

    def read_with_mask(self, sample: int) -> tuple[Tensor, Tensor]:
        """The image, as :meth:`read` gives it, and its mask, uint8 (height, width); all IGNORED where it has none.

        Raises:
            BrokenImageError: one of them cannot be decoded, or the mask does not fit the image or the classes.
        """


def with_masks(source: ImageSource) -> MaskedSource | None:
    """The source as one with masks; None: it has none."""
    return cast(MaskedSource, source) if getattr(source, "mask_classes", None) else None


def pixel_rule_of(source: object) -> object:
    """The rule for transparency and orientation that a source follows; None: it holds pixels, no pictures."""
    inner = getattr(source, "source", None)  # of a part of another
    return getattr(source, "rule", None) or (pixel_rule_of(inner) if inner is not None else None)


class ArraySource:
    """Images held in memory as one uint8 array."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, classes: list[str]) -> None:
        """``images`` has shape (n, 3, height, width)."""
        self.images, self.labels, self.classes = images, labels, classes

    def __len__(self) -> int:
        return len(self.images)

    def read(self, sample: int) -> Tensor:
        # Copied into the layout of decoders, which the renderer takes without a copy of its own for every view.
        return torch.from_numpy(self.images[sample].transpose(1, 2, 0).copy()).permute(2, 0, 1)

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for image in self.images[:: max(1, len(self) // 1000)]:
            digest.update(image.tobytes())
        return digest.hexdigest()


class Subset:
    """Some images of another source, numbered from 0 in the order given."""

    def __init__(self, source: ImageSource, indices: NDArray[np.int64]) -> None:
        self.source, self.indices, self.classes = source, indices, source.classes
        self.labels = None if source.labels is None else source.labels[indices]
        self.mask_classes: list[str] = getattr(source, "mask_classes", [])
        times = getattr(source, "times", None)
        self.times = None if times is None else times.of(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, sample: int) -> Tensor:
        return self.source.read(int(self.indices[sample]))

    def read_with_mask(self, sample: int) -> tuple[Tensor, Tensor]:
        return cast(MaskedSource, self.source).read_with_mask(int(self.indices[sample]))

    def fingerprint(self) -> str:
        return hashlib.sha256(self.source.fingerprint().encode() + self.indices.astype("<i8").tobytes()).hexdigest()
