"""Where images come from, by name: torchvision's readers for CIFAR, STL10 and ImageNet, folders, .beton files, the
digits, and functions of the user's own.

Three splits: ``pretrain`` is what pretraining sees, ``train`` and ``test`` carry labels for evaluation; held-out images
are never in the first two.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torchvision import datasets

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.data.sources.base import ArraySource, BrokenImageError, ImageSource
from simclr_dist.data.sources.beton.source import open_beton
from simclr_dist.data.sources.files import IMAGE_SUFFIXES, FileSource, find_images
from simclr_dist.data.sources.outside import open_outside
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.errors import UserError, first_line
from simclr_dist.random.permutation import permute

__all__ = ["ArraySource", "BrokenImageError", "FileSource", "ImageSource", "open_for_pretraining", "open_source"]

Opener = Callable[[Path, str, PixelRule], ImageSource]
SPLITS = ("pretrain", "train", "test")
DIGITS_TRAIN = 1437


def open_source(data: Data, split: str = "pretrain") -> ImageSource:
    """The images of a recipe.

    Raises:
        UserError: the folder is missing, holds no images, or is not what the source expects.
    """
    if ":" in data.source:
        return open_outside(data, split)
    opened: ImageSource = _OPENERS[data.source](Path(data.path).expanduser(), split, PixelRule.of(data))
    return opened


def open_for_pretraining(recipe: Recipe) -> ImageSource:
    """The images that a recipe pretrains on, with what its method needs of them.

    Raises:
        UserError: as :func:`open_source`, or the method needs labels and there are none.
    """
    source = open_source(recipe.data)
    for need in sorted(method_class(recipe.method.name).needs):
        if need != "labels" or source.labels is None:
            raise UserError(
                f"recipe.data.source: {recipe.method.name} needs {need}, and the images of '{recipe.data.source}' "
                "for pretraining have none; take a source with them, or another method"
            )
    return source


def _open_digits(_: Path, split: str, __: PixelRule) -> ImageSource:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; 360 of them, drawn once and for all, are held out."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = permute(np.arange(len(digits.images)), len(digits.images), seed=0, epoch=0)
    part = order[DIGITS_TRAIN:] if split == "test" else order[:DIGITS_TRAIN]
    grey = np.round(digits.images[part] * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[:, None], 3, axis=1)
    return ArraySource(images, digits.target[part].astype(np.int64), [str(name) for name in digits.target_names])


def _open_folder(path: Path, split: str, rule: PixelRule) -> ImageSource:
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
    names = find_images(root)
    if not names:
        raise UserError(f"recipe.data.path: no images in {root} (looked for {', '.join(IMAGE_SUFFIXES)})")
    if any("/" not in name for name in names):
        return FileSource(root, names, None, [], rule)
    folders = {name.partition("/")[0] for name in names}
    if split != "pretrain" and held_out:
        # Numbered over both splits: a class that one of them lacks must not shift the others.
        other = find_images(path / "train" if split == "test" else held_out)
        folders |= {name.partition("/")[0] for name in other if "/" in name}
    classes = sorted(folders)
    number = {name: index for index, name in enumerate(classes)}
    return FileSource(root, names, [number[name.partition("/")[0]] for name in names], classes, rule)


def _open_cifar(reader: type[datasets.CIFAR10]) -> Opener:
    def open_cifar(path: Path, split: str, _: PixelRule) -> ImageSource:
        found = _through_torchvision(lambda: reader(path, train=split != "test"), reader.__name__, path)
        return ArraySource(found.data.transpose(0, 3, 1, 2), np.asarray(found.targets, dtype=np.int64), found.classes)

    return open_cifar


def _open_stl10(path: Path, split: str, _: PixelRule) -> ImageSource:
    part = "unlabeled" if split == "pretrain" else split
    found = _through_torchvision(lambda: datasets.STL10(path, split=part), "STL10", path)
    labels = None if split == "pretrain" else found.labels.astype(np.int64)
    return ArraySource(found.data, labels, getattr(found, "classes", []))


def _open_imagenet(path: Path, split: str, rule: PixelRule) -> ImageSource:
    part = "val" if split == "test" else "train"
    found = _through_torchvision(lambda: datasets.ImageNet(path, split=part), "ImageNet", path)
    root = path / part
    names = [str(Path(name).relative_to(root)) for name, _ in found.samples]
    return FileSource(root, names, found.targets, [words[0] for words in found.classes], rule)


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


_OPENERS: dict[str, Opener] = {
    "digits": _open_digits,
    "folder": _open_folder,
    "cifar10": _open_cifar(datasets.CIFAR10),
    "cifar100": _open_cifar(datasets.CIFAR100),
    "stl10": _open_stl10,
    "imagenet": _open_imagenet,
    "beton": open_beton,
}
