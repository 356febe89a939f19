"""Images in files with their masks in others."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_dist.data.sources.base import IGNORED, BrokenImageError
from simclr_dist.data.sources.files import FileSource, reason_of
from simclr_dist.data.sources.folders import by_hash
from simclr_dist.data.sources.identity import FileStates
from simclr_dist.data.sources.masks import check_mask_beginning, decode_mask, plain_values
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.errors import UserError


@dataclass(kw_only=True)
class MaskedNames:
    """Which files a set with masks is."""

    root: Path
    names: list[str]
    """Of the images, paths below ``root``."""
    masks: list[str]
    """Of their masks, in their order; "" for an image without one."""
    mask_classes: list[str]
    """Names of the classes of pixels, in the order of their numbers."""
    values: NDArray[np.int16] | None = None
    """(256,): what the stored numbers mean, see masks.py; None: themselves."""
    labels: list[int] | None = None
    classes: list[str] = field(default_factory=list)
    """Of whole images."""
    remarks: list[str] = field(default_factory=list)

    def with_few_masks(self, count: int, *, keep_others: bool) -> "MaskedNames":
        """Masks for ``count`` images alone, those first by hash; the others without, or gone.

        Raises:
            UserError: there are fewer images with masks.
        """
        chosen = first_by_hash([name for name, mask in zip(self.names, self.masks, strict=True) if mask], count)
        kept = set(chosen)
        few = copy.copy(self)
        few.masks = [mask if name in kept else "" for name, mask in zip(self.names, self.masks, strict=True)]
        of = f"{count:,} of {sum(map(bool, self.masks)):,}"
        few.remarks = [*self.remarks, f"{of} masks by hash (set {digest_of_names(chosen)[:12]})"]
        return few if keep_others else few.without_unlabelled()

    def without_unlabelled(self) -> "MaskedNames":
        """The images with masks alone."""
        few, kept = copy.copy(self), [number for number, mask in enumerate(self.masks) if mask]
        few.names, few.masks = [self.names[number] for number in kept], [self.masks[number] for number in kept]
        few.labels = None if self.labels is None else [self.labels[number] for number in kept]
        return few


def first_by_hash(names: Sequence[str], count: int) -> list[str]:
    """The ``count`` names of the smallest SHA-256, smallest first: fewer are always among more.

    Raises:
        UserError: there are not so many.
    """
    if count > len(names):
        raise UserError(
            f"recipe.data.labelled_images: {count} is more than the {len(names)} images with masks; lower it (0: all)"
        )
    return by_hash(names)[:count]


def digest_of_names(names: Sequence[str]) -> str:
    """SHA-256 of names in their order."""
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()


class MaskedFiles(FileSource):
    """Images in files, with masks."""

    def __init__(self, found: MaskedNames, rule: PixelRule | None = None) -> None:
        super().__init__(found.root, found.names, found.labels, found.classes, rule, found.remarks)
        self.mask_files = _MaskFiles(found.root, found.masks, None, [], rule)
        self.mask_classes = found.mask_classes
        self._values = plain_values(len(found.mask_classes)) if found.values is None else found.values

    def read_with_mask(self, sample: int) -> tuple[Tensor, Tensor]:
        """The image, and its mask as uint8 (height, width).

        Raises:
            BrokenImageError: naming the file: one cannot be decoded, they differ in size, or the mask has a number that
                is no class.
            UserError: one cannot be read because of the storage or this machine.
        """
        image = self.read(sample)
        height, width = image.shape[1:]
        if not self.mask_files.name(sample):
            return image, torch.full((height, width), IGNORED, dtype=torch.uint8)
        stored = self.mask_files.stored(sample)
        if stored.shape != (height, width):
            sizes = f"{stored.shape[1]} x {stored.shape[0]} pixels and {self.printable_name(sample)} {width} x {height}"
            lies = "; is one of them turned by its EXIF orientation (recipe.data.apply_orientation)?"
            raise self._no_mask(sample, f"has {sizes}{lies if stored.shape == (width, height) else ''}")
        mask = self._values[stored]
        if mask.min() < 0:
            number, count = int(stored[mask < 0][0]), len(self.mask_classes)
            raise self._no_mask(sample, f"has the number {number}, which is none of its {count} classes")
        return image, torch.from_numpy(mask.astype(np.uint8))

    def names_fingerprint(self) -> str:
        """Of the names of images and masks, the classes, and what numbers mean."""
        parts = (super().names_fingerprint(), self.mask_files.names_fingerprint(), "\0".join(self.mask_classes))
        return hashlib.sha256("\0".join(parts).encode() + self._values.astype("<i2").tobytes()).hexdigest()

    def states(self) -> FileStates:
        """Sizes and times of the images, then of the masks.

        Raises:
            UserError: the file system does not answer.
        """
        masks = [name for name in map(self.mask_files.name, range(len(self))) if name]
        return FileStates.of(self.root, [*map(self.name, range(len(self))), *masks])

    def _no_mask(self, sample: int, why: str) -> BrokenImageError:
        return BrokenImageError(f"{self.mask_files.printable_name(sample)}: the mask {why}")


class _MaskFiles(FileSource):
    """The files of the masks; some have none."""

    check = staticmethod(check_mask_beginning)

    def stored(self, sample: int) -> NDArray[np.uint8]:
        """The numbers in a mask, shape (height, width); raises as :meth:`content`."""
        content = self.content(sample)
        try:
            return decode_mask(content, apply_orientation=self.rule.apply_orientation)
        except Exception as error:  # almost any, as decoders do on damaged input
            raise BrokenImageError(f"{self.printable_name(sample)}: no mask: {reason_of(error)}") from error
