"""A source of the user's own, checked: what does not fit is told in one line, where torch would fail much later."""

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simclr_dist.config.recipe import Data
from simclr_dist.config.registry import load
from simclr_dist.data.sources.base import IGNORED, BrokenImageError, ImageSource
from simclr_dist.data.sources.times import FrameTimes
from simclr_dist.errors import UserError, first_line

_KEY = "recipe.data.source"


def open_outside(data: Data, split: str) -> ImageSource:
    """What the function ``data.source`` (package.module:function) returns for these keys and this split.

    Raises:
        UserError: it cannot be imported, fails, or returns no source of images (docs/methods.md); what is wrong.
    """
    function = load(_KEY, data.source, {})
    if not callable(function):
        raise UserError(f"{_KEY}: '{data.source}' is no function; it is called with (data, split)")
    try:
        source = function(data, split)
    except UserError:
        raise
    except Exception as error:  # whatever somebody's function does
        raise _failed(data.source, f"opening '{split}'", error) from error
    return CheckedSource(source, data.source)


class CheckedSource:
    """Another source, whose images are looked at as they are read."""

    def __init__(self, source: Any, name: str) -> None:
        """``name`` stands in the messages.

        Raises:
            UserError: it lacks something, or its labels, its length or its first image are not what they must be.
        """
        self.source, self.name = source, name
        for method in ("__len__", "read", "fingerprint"):
            if not callable(getattr(source, method, None)):
                raise self._wrong(f"{type(source).__name__} has no {method}()")
        for attribute in ("labels", "classes"):
            if not hasattr(source, attribute):
                raise self._wrong(f"{type(source).__name__} has no attribute {attribute}")
        self._images = len(source)
        if self._images < 1:
            raise self._wrong("it holds no images")
        self.classes = [str(each) for each in source.classes]
        self.labels = self._checked_labels()
        self.mask_classes = [str(each) for each in getattr(source, "mask_classes", [])]
        if self.mask_classes and not callable(getattr(source, "read_with_mask", None)):
            raise self._wrong(f"{type(source).__name__} has mask_classes and no read_with_mask()")
        if len(self.mask_classes) > IGNORED:
            raise self._wrong(f"{len(self.mask_classes)} mask_classes; at most {IGNORED}")
        self.times = self._checked_times()
        if not isinstance(source.fingerprint(), str):
            raise self._wrong("fingerprint() must return text that changes with the set of images")
        with suppress(BrokenImageError):  # any image may be; the next one that is read is looked at too
            (self.read_with_mask if self.mask_classes else self.read)(0)

    def __len__(self) -> int:
        return self._images

    def read(self, sample: int) -> Tensor:
        return self._checked_image(self._asked("read", sample), f"read({sample})")

    def read_with_mask(self, sample: int) -> tuple[Tensor, Tensor]:
        call = f"read_with_mask({sample})"
        found = self._asked("read_with_mask", sample)
        if not isinstance(found, tuple) or len(found) != 2:
            raise self._wrong(f"{call} returns {type(found).__name__}, not a pair (image, mask)")
        image, mask = self._checked_image(found[0], call), found[1]
        if not isinstance(mask, Tensor) or mask.dtype != torch.uint8 or mask.shape != image.shape[1:]:
            what = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise self._wrong(f"{call} returns the mask {what}, not uint8 {tuple(image.shape[1:])} as its image")
        if beyond := mask[(mask >= len(self.mask_classes)) & (mask != IGNORED)].tolist():
            raise self._wrong(f"{call} returns a mask with {beyond[0]}, with {len(self.mask_classes)} mask_classes")
        return image, mask

    def _asked(self, method: str, sample: int) -> Any:
        try:
            return getattr(self.source, method)(sample)
        except (BrokenImageError, UserError):
            raise
        except Exception as error:
            raise _failed(self.name, f"{method}({sample})", error) from error

    def _checked_image(self, image: Any, call: str) -> Tensor:
        if not isinstance(image, Tensor):
            raise self._wrong(f"{call} returns {type(image).__name__}, not a torch tensor")
        if image.dtype != torch.uint8:
            raise self._wrong(f"{call} returns {image.dtype} numbers, not uint8 of 0..255")
        if image.dim() != 3 or len(image) != 3 or not image.numel():
            raise self._wrong(f"{call} returns the shape {tuple(image.shape)}, not (3, height, width)")
        return image

    def fingerprint(self) -> str:
        return str(self.source.fingerprint())

    def _checked_labels(self) -> Any:
        labels = self.source.labels
        if labels is None:
            return None
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
            kind = f"an array of {labels.dtype}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise self._wrong(f"labels are {kind}; they must be a numpy array of int64, or None")
        if labels.shape != (self._images,):
            raise self._wrong(f"labels have the shape {labels.shape}; one for each of the {self._images} images")
        if labels.min() < 0 or (self.classes and labels.max() >= len(self.classes)):
            raise self._wrong(
                f"labels run from {labels.min()} to {labels.max()}, with {len(self.classes)} classes; they count from 0"
            )
        return labels

    def _checked_times(self) -> FrameTimes | None:
        times = getattr(self.source, "times", None)
        if times is None:
            return None
        if not isinstance(times, FrameTimes):
            raise self._wrong(f"times are {type(times).__name__}, not a FrameTimes (simclr_dist.data.sources.times)")
        for name, numbers in vars(times).items():
            if not isinstance(numbers, np.ndarray) or numbers.dtype != np.int64 or numbers.shape != (self._images,):
                raise self._wrong(f"times.{name} must be a numpy array of int64 with a number for each image")
            if numbers.min() < 0:
                raise self._wrong(f"times.{name} has {numbers.min()}; numbers count from 0")
        return times

    def _wrong(self, why: str) -> UserError:
        return UserError(f"{_KEY}: '{self.name}' is no source of images: {why} (docs/methods.md)")


def _failed(name: str, doing: str, error: Exception) -> UserError:
    return UserError(
        f"{_KEY}: '{name}' fails at {doing}: {type(error).__name__}: {first_line(error)}; --debug shows where"
    )
