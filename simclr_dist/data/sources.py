"""Where images come from: a numbered set of images, read one at a time, each named so that a broken one can be found.

torchvision's readers do the parsing of CIFAR, STL10 and ImageNet. Three splits: ``pretrain`` is what pretraining sees,
``train`` and ``test`` carry labels for evaluation; held-out images are never in the first two.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import datasets

from simclr_dist.config.schema import Data
from simclr_dist.data.order import permute
from simclr_dist.errors import UserError, first_line

SPLITS = ("pretrain", "train", "test")
DIGITS_TRAIN = 1437
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


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
        """Changes when the set of images changes: of names for files, of a sample of pixels for arrays."""


class ArraySource:
    """Images held in memory as one uint8 array."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None, classes: list[str]) -> None:
        """``images`` has shape (n, 3, height, width)."""
        self.images, self.labels, self.classes = images, labels, classes

    def __len__(self) -> int:
        return len(self.images)

    def read(self, sample: int) -> Tensor:
        return torch.from_numpy(self.images[sample].copy())

    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for image in self.images[:: max(1, len(self) // 1000)]:
            digest.update(image.tobytes())
        return digest.hexdigest()


class FileSource:
    """Images in files, decoded by Pillow when they are read.

    The names stand in one block of bytes, not in a list: a list of a million strings would be copied, page by page,
    into every loader worker as its reference counts are touched.
    """

    def __init__(self, root: Path, names: list[str], labels: list[int] | None, classes: list[str]) -> None:
        """``names`` are paths below ``root``."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        self.root = root
        self._names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.classes = classes

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, sample: int) -> str:
        start = self._ends[sample - 1] if sample else 0
        return self._names[start : self._ends[sample]].tobytes().decode("utf-8", "surrogateescape")

    def read(self, sample: int) -> Tensor:
        try:
            with Image.open(self.root / self.name(sample)) as image:
                pixels = np.array(image.convert("RGB"))
        except Exception as error:  # Pillow's decoders raise almost anything on damaged input
            # A name may hold any bytes: shown with escapes, so that it can always be printed.
            name = self.name(sample).encode("utf-8", "backslashreplace").decode()
            raise BrokenImageError(f"{name}: {type(error).__name__}: {first_line(error)}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(len(self)).encode() + self._names.tobytes()).hexdigest()


def open_source(data: Data, split: str = "pretrain") -> ImageSource:
    """The images of a recipe.

    Raises:
        UserError: the folder is missing, holds no images, or is not what the source expects.
    """
    opened: ImageSource = _OPENERS[data.source](Path(data.path), split)
    return opened


def _open_digits(_: Path, split: str) -> ImageSource:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; 360 of them, drawn once and for all, are held out."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = permute(np.arange(len(digits.images)), len(digits.images), seed=0, epoch=0)
    part = order[DIGITS_TRAIN:] if split == "test" else order[:DIGITS_TRAIN]
    grey = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[:, None], 3, axis=1)
    return ArraySource(images, digits.target[part].astype(np.int64), [str(name) for name in digits.target_names])


def _open_folder(path: Path, split: str) -> ImageSource:
    """Every image below a folder, at any depth, in the order of their names.

    When the folder holds ``train`` and ``test`` (or ``val``), the splits are these; otherwise pretraining takes it
    whole. The class of an image is the first folder below the split's root; images directly in it leave all unlabelled.
    """
    _require_folder(path, "folder")
    held_out = next((path / name for name in ("test", "val") if (path / name).is_dir()), None)
    if held_out and (path / "train").is_dir():
        root = held_out if split == "test" else path / "train"
    elif split == "pretrain":
        root = path
    else:
        raise UserError(f"recipe.data.path: {path} has no 'train' and 'test' folders; make them to evaluate on it")
    files = sorted(found.relative_to(root) for found in root.rglob("*") if found.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"recipe.data.path: no images in {root} (looked for {', '.join(IMAGE_SUFFIXES)})")
    names = [str(file) for file in files]
    if any(len(file.parts) == 1 for file in files):
        return FileSource(root, names, None, [])
    classes = sorted({file.parts[0] for file in files})
    number = {name: index for index, name in enumerate(classes)}
    return FileSource(root, names, [number[file.parts[0]] for file in files], classes)


def _open_cifar(reader: type[datasets.CIFAR10]) -> Callable[[Path, str], ImageSource]:
    def open_cifar(path: Path, split: str) -> ImageSource:
        found = _through_torchvision(lambda: reader(path, train=split != "test"), reader.__name__, path)
        return ArraySource(found.data.transpose(0, 3, 1, 2), np.asarray(found.targets, dtype=np.int64), found.classes)

    return open_cifar


def _open_stl10(path: Path, split: str) -> ImageSource:
    part = "unlabeled" if split == "pretrain" else split
    found = _through_torchvision(lambda: datasets.STL10(path, split=part), "STL10", path)
    labels = None if split == "pretrain" else found.labels.astype(np.int64)
    return ArraySource(found.data, labels, found.classes)


def _open_imagenet(path: Path, split: str) -> ImageSource:
    part = "val" if split == "test" else "train"
    found = _through_torchvision(lambda: datasets.ImageNet(path, split=part), "ImageNet", path)
    root = path / part
    names = [str(Path(name).relative_to(root)) for name, _ in found.samples]
    return FileSource(root, names, found.targets, [words[0] for words in found.classes])


def _through_torchvision(read: Callable[[], datasets.VisionDataset], name: str, path: Path) -> datasets.VisionDataset:
    _require_folder(path, name)
    try:
        return read()
    except Exception as error:  # torchvision raises what its parsers meet: RuntimeError, KeyError, EOFError, pickle's
        raise UserError(
            f"recipe.data.path: torchvision cannot read {name} in {path}: {first_line(error)} "
            "(the files must be there as torchvision downloads them)"
        ) from error


def _require_folder(path: Path, source: str) -> None:
    if not path.is_dir():
        raise UserError(f"recipe.data.path: {path} is not a folder; give the folder of the {source} images")


_OPENERS: dict[str, Callable[[Path, str], ImageSource]] = {
    "digits": _open_digits,
    "folder": _open_folder,
    "cifar10": _open_cifar(datasets.CIFAR10),
    "cifar100": _open_cifar(datasets.CIFAR100),
    "stl10": _open_stl10,
    "imagenet": _open_imagenet,
}
