"""Where images come from, by name: torchvision's readers for CIFAR, STL10, Fashion-MNIST and ImageNet, folders, .beton
files, the digits, and functions of the user's own.

Three splits: ``pretrain`` is what pretraining sees, ``train`` and ``test`` carry labels for evaluation; held-out images
are never in the first two.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torchvision import datasets

from simclr_dist.config import Config
from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.registry import method_class
from simclr_dist.config.shards import Shards
from simclr_dist.data.sources.base import ArraySource, BrokenImageError, ImageSource, with_masks
from simclr_dist.data.sources.beton.ffcv_source import open_ffcv
from simclr_dist.data.sources.beton.source import open_beton
from simclr_dist.data.sources.color import has_color
from simclr_dist.data.sources.fashion_mnist import find_files, read_files
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.folders import (
    IMAGE_SUFFIXES,
    find_images,
    is_foreign,
    part_by_name,
    some_of,
    splits_of,
)
from simclr_dist.data.sources.frames import open_frames
from simclr_dist.data.sources.masked_sets import MASKED, open_masked
from simclr_dist.data.sources.outside import open_outside
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.shards.opening import open_shards
from simclr_dist.data.sources.summary import summary
from simclr_dist.data.sources.times import refuse_unfit_times, times_of
from simclr_dist.data.sources.torchvision_readers import require_folder, through_torchvision
from simclr_dist.data.sources.videos import open_videos
from simclr_dist.errors import UserError
from simclr_dist.random.permutation import permute
from simclr_dist.storage.paths import expanded
from simclr_dist.terminal import printable

__all__ = [
    "ArraySource",
    "BrokenImageError",
    "FileSource",
    "ImageSource",
    "open_for_pretraining",
    "open_of_recipe",
    "open_source",
]

Opener = Callable[[Path, str, PixelRule], ImageSource]
SPLITS = ("pretrain", "train", "test")
DIGITS_TRAIN = 1437


def open_source(
    data: Data, shards: Shards, split: str = "pretrain", *, pretrained_with_labels: bool = False
) -> ImageSource:
    """The images of a recipe; ``shards``: how this machine comes to them, where they are in shards.

    ``pretrained_with_labels``: whether pretraining is shown the labels, so that it must not see a test image.

    Raises:
        UserError: the folder is missing, holds no images, or is not what the source expects.
    """
    if ":" in data.source:
        return open_outside(data, split)
    if data.source in MASKED:
        return open_masked(data, split)
    path, rule = expanded("recipe.data.path", data.path), PixelRule.of(data)
    if data.source == "webdataset":
        return open_shards(path, split, rule, shards)
    if data.source == "folder":
        return _open_folder(path, split, rule, pretrained_with_labels)
    return _OPENERS[data.source](path, split, rule)


def open_of_recipe(recipe: Recipe, shards: Shards, split: str = "pretrain") -> ImageSource:
    """As :func:`open_source`; a method that needs labels pretrains on no image that is a test image.

    Raises:
        UserError: as :func:`open_source`.
    """
    with_labels = "labels" in method_class(recipe.method.name).needs
    return open_source(recipe.data, shards, split, pretrained_with_labels=with_labels)


def open_for_pretraining(config: Config) -> ImageSource:
    """The images that a run pretrains on, with what its method needs of them.

    Raises:
        UserError: as :func:`open_source`, or the method needs labels, masks or colours and there are none, or has fewer
            classes; no frame has a partner, or is far from another, where that is asked for.
    """
    recipe, data = config.recipe, config.recipe.data
    source = open_of_recipe(recipe, config.machine.shards)
    has = {
        "labels": lambda: source.labels is not None,
        "masks": lambda: with_masks(source),
        "color": lambda: has_color(source),
        "time": lambda: times_of(source) is not None,
        "geometry": lambda: True,
    }
    method = method_class(recipe.method.name)
    for need in sorted(method.needs):
        if not has[need]():
            raise UserError(
                f"recipe.data.source: {recipe.method.name} needs {need}, and the images of '{data.source}' "
                "for pretraining have none; take a source with them, or another method "
                f"({summary(source, data.source)})"
            )
    most = method.most_classes(recipe.method)
    if most is not None and source.labels is not None and (found := int(np.max(source.labels)) + 1) > most:
        raise UserError(
            f"recipe.method.classes: {recipe.method.name} tells {most} classes, and the images of '{data.source}' are "
            f"of {found}; set recipe.method.classes={found}"
        )
    refuse_unfit_times(recipe, source)
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


def _open_folder(path: Path, split: str, rule: PixelRule, pretrained_with_labels: bool) -> ImageSource:
    """Every image below a folder, at any depth, in the order of their names; docs/data.md tells which files are some.

    The splits are folders of the usual names. Where none is held out, a fixed fifth of each class are test images,
    which pretraining sees too, unless it is shown the labels. The class of an image is the first folder below the
    split's root; images directly in it leave all unlabelled for pretraining, and are left out of evaluation.
    """
    require_folder(path, "")
    splits = splits_of(path)
    in_test = split == "test" and splits.held_out is not None
    root = splits.held_out if in_test and splits.held_out else splits.train
    found = find_images(root, () if in_test else splits.besides)
    names, left_out = found.names, found.left_out()
    if splits.left_out:
        left_out.append(f"{some_of([f'{name}/' for name in splits.left_out])}: beside the splits")
    remarks = [f"held out: {printable(splits.held_out.name)}/"] if splits.held_out and not in_test else []
    if not names:
        held = f" beside the held-out {printable(splits.held_out.name)}/" if splits.held_out and not in_test else ""
        raise UserError(
            f"recipe.data.path: no images in {printable(str(root))}{held} (looked for {', '.join(IMAGE_SUFFIXES)}"
            f"{'; left out: ' + ', '.join(left_out) if left_out else ''})"
        )
    stray = [name for name in names if "/" not in name]
    is_sorted = len(stray) < len(names)
    labelled = is_sorted and not (split == "pretrain" and stray)
    by_name = splits.held_out is None and (split != "pretrain" or (pretrained_with_labels and labelled))
    if by_name and not is_sorted:
        raise UserError(
            f"recipe.data.path: {printable(str(root))} has no class folders, and no 'train' and 'test' folders with "
            "some; make a folder for each class to evaluate on it"
        )
    if stray and is_sorted:
        beside = f"{some_of(stray)}: beside the class folders"
        if split == "pretrain":
            remarks.append(f"no classes, as {beside.replace(': beside', ' stand beside')}")
        else:
            names = [name for name in names if "/" in name]
            left_out.append(beside)
    if by_name:
        names, remark = part_by_name(names, split)
        remarks.append(remark)
    remarks += [f"left out: {', '.join(left_out)}"] if left_out else []
    if not names:
        raise UserError(f"recipe.data.path: {printable(str(root))} has one image a class; two are needed to evaluate")
    if not labelled:
        return FileSource(root, names, None, [], rule, remarks)
    folders = {name.partition("/")[0] for name in found.names if "/" in name}
    if split != "pretrain" and splits.held_out:
        # Numbered over both splits: a class that one of them lacks must not shift the others.
        other = find_images(splits.train, splits.besides) if in_test else find_images(splits.held_out)
        folders |= {name.partition("/")[0] for name in other.names if "/" in name}
    number = {name: index for index, name in enumerate(sorted(folders))}
    labels = [number[name.partition("/")[0]] for name in names]
    pretrained_on = by_name and not pretrained_with_labels
    return FileSource(root, names, labels, list(number), rule, remarks, pretrained_on=pretrained_on)


def _open_cifar(reader: type[datasets.CIFAR10]) -> Opener:
    def open_cifar(path: Path, split: str, _: PixelRule) -> ImageSource:
        found = through_torchvision(lambda: reader(path, train=split != "test"), reader.__name__, path)
        return ArraySource(found.data.transpose(0, 3, 1, 2), np.asarray(found.targets, dtype=np.int64), found.classes)

    return open_cifar


def _open_stl10(path: Path, split: str, _: PixelRule) -> ImageSource:
    part = "unlabeled" if split == "pretrain" else split
    found = through_torchvision(lambda: datasets.STL10(path, split=part), "STL10", path)
    labels = None if split == "pretrain" else found.labels.astype(np.int64)
    return ArraySource(found.data, labels, getattr(found, "classes", []))


def _open_fashion_mnist(path: Path, split: str, _: PixelRule) -> ImageSource:
    require_folder(path, "FashionMNIST")
    files = find_files(path, split)
    return through_torchvision(lambda: read_files(files), "FashionMNIST", path)


def _open_imagenet(path: Path, split: str, rule: PixelRule) -> ImageSource:
    part = "val" if split == "test" else "train"
    found = through_torchvision(lambda: datasets.ImageNet(path, split=part), "ImageNet", path)
    root = path / part
    named = [(Path(name).relative_to(root), label) for name, label in found.samples]
    kept = [(str(name), label) for name, label in named if not any(is_foreign(part) for part in name.parts)]
    remarks = [f"left out: {len(named) - len(kept)} hidden files"] if len(kept) < len(named) else []
    names, labels = [name for name, _ in kept], [label for _, label in kept]
    return FileSource(root, names, labels, [words[0] for words in found.classes], rule, remarks)


_OPENERS: dict[str, Opener] = {
    "digits": _open_digits,
    "cifar10": _open_cifar(datasets.CIFAR10),
    "cifar100": _open_cifar(datasets.CIFAR100),
    "stl10": _open_stl10,
    "fashion_mnist": _open_fashion_mnist,
    "imagenet": _open_imagenet,
    "beton": open_beton,
    "ffcv": open_ffcv,
    "frames": open_frames,
    "videos": open_videos,
}
