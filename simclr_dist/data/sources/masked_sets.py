"""Sets of images with masks by name: torchvision's readers say which files they are, and all are decoded alike.

The splits ``pretrain`` and ``train`` are the images of the set's training split, ``test`` those of the split that
papers report on: masks of test images are never seen in pretraining.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torchvision import datasets

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.base import IGNORED
from simclr_dist.data.sources.folders import is_foreign
from simclr_dist.data.sources.masked_files import MaskedFiles, MaskedNames
from simclr_dist.data.sources.masked_folder import find_masked
from simclr_dist.data.sources.masks import UNKNOWN
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.torchvision_readers import require_folder, through_torchvision
from simclr_dist.errors import UserError
from simclr_dist.storage.paths import expanded

VOC_CLASSES = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
_SBD_FOLDERS = ("sbd", "SBD", "benchmark_RELEASE/dataset", ".")


def open_masked(data: Data, split: str) -> MaskedFiles:
    """The images and masks of a recipe's source, with the masks that it asks for.

    Raises:
        UserError: the files are not where they must be, or there are fewer masks than are asked for.
    """
    found = MASKED[data.source](expanded("recipe.data.path", data.path), split)
    if split != "pretrain" or (not data.labelled_images and data.unlabelled_images == "left_out"):
        found = found.without_unlabelled()
    elif data.labelled_images:
        found = found.with_few_masks(data.labelled_images, keep_others=data.unlabelled_images == "kept")
    if without := found.masks.count(""):
        found.remarks.append(f"{without:,} images without a mask")
    return MaskedFiles(found, PixelRule.of(data))


def _voc(path: Path, split: str) -> MaskedNames:
    """PASCAL VOC 2012 (Everingham et al.): 1,464 images to train with, 1,449 (val) to test."""
    part = "val" if split == "test" else "train"
    reader = through_torchvision(lambda: datasets.VOCSegmentation(path, image_set=part), "VOC 2012", path)
    # Below ``path``, not VOC2012: SBD stands beside that, and a way up out of a linked folder would lead elsewhere.
    return MaskedNames(
        root=path, names=_below(path, reader.images), masks=_below(path, reader.masks), mask_classes=VOC_CLASSES
    )


def _voc_sbd(path: Path, split: str) -> MaskedNames:
    """VOC 2012 with SBD's masks of more of its images (Hariharan et al. 2011), 10,582 in all to train with.

    VOC's own masks go before SBD's, and no image of VOC's val is taken.
    """
    found = _voc(path, split)
    if split == "test":
        return found
    folder = next((path / name for name in _SBD_FOLDERS if (path / name / "cls").is_dir()), None)
    if folder is None:
        raise UserError(
            f"recipe.data.path: {path} has no SBD beside VOCdevkit/: no folder cls/ in {', '.join(_SBD_FOLDERS)}; put "
            "img/, cls/, train.txt and val.txt of its benchmark_RELEASE/dataset into sbd/, or take source 'voc'"
        )
    known = {Path(name).stem for name in (*found.names, *_voc(path, "test").names)}
    for part in ("train", "val"):
        reader = _sbd_reader(folder, part)
        new = [pair for pair in zip(reader.images, reader.masks, strict=True) if Path(pair[0]).stem not in known]
        known |= {Path(image).stem for image, _ in new}
        found.names += _below(found.root, [image for image, _ in new])
        found.masks += _below(found.root, [mask for _, mask in new])
    return found


def _sbd_reader(folder: Path, part: str) -> datasets.SBDataset:
    return through_torchvision(lambda: datasets.SBDataset(folder, part, mode="segmentation"), "SBD", folder)


def _cityscapes(path: Path, split: str) -> MaskedNames:
    """Cityscapes (Cordts et al. 2016), fine masks of 19 classes: 2,975 images to train with, 500 (val) to test."""
    part = "val" if split == "test" else "train"
    for folder in (path / "leftImg8bit" / part, path / "gtFine" / part):  # else torchvision would unpack archives
        require_folder(folder, "Cityscapes")
    reader = through_torchvision(
        lambda: datasets.Cityscapes(path, split=part, mode="fine", target_type="semantic"), "Cityscapes", path
    )
    pairs = sorted(zip(_below(path, reader.images), _below(path, [each for (each,) in reader.targets]), strict=True))
    pairs = [pair for pair in pairs if not is_foreign(os.path.basename(pair[0]))]  # listed as the folder has them
    values = np.full(256, UNKNOWN, dtype=np.int16)
    values[IGNORED] = IGNORED
    for each in datasets.Cityscapes.classes:
        if each.id >= 0:
            values[each.id] = each.train_id
    counted = sorted((each.train_id, each.name) for each in datasets.Cityscapes.classes if 0 <= each.train_id < IGNORED)
    return MaskedNames(
        root=path,
        names=[image for image, _ in pairs],
        masks=[mask for _, mask in pairs],
        mask_classes=[name for _, name in counted],
        values=values,
    )


def _oxford_pet(path: Path, split: str) -> MaskedNames:
    """Oxford-IIIT Pet (Parkhi et al. 2012): 3,680 images to train with, 3,669 to test, of 37 breeds.

    Its masks say pet (1), background (2) and not classified (3), the border, which is ignored.
    """
    part = "test" if split == "test" else "trainval"
    reader = through_torchvision(
        lambda: datasets.OxfordIIITPet(path, split=part, target_types="segmentation"), "OxfordIIITPet", path
    )
    root = path / "oxford-iiit-pet"
    values = np.full(256, UNKNOWN, dtype=np.int16)
    values[[1, 2, 3]] = 1, 0, IGNORED
    return MaskedNames(
        root=root,
        names=_below(root, reader._images),
        masks=_below(root, reader._segs),
        mask_classes=["background", "pet"],
        values=values,
        labels=list(reader._labels),
        classes=list(reader.classes),
    )


def _below(root: Path, paths: Sequence[str | Path]) -> list[str]:
    return [os.path.relpath(path, root) for path in paths]


MASKED: dict[str, Callable[[Path, str], MaskedNames]] = {
    "folder_with_masks": find_masked,
    "voc": _voc,
    "voc_sbd": _voc_sbd,
    "cityscapes": _cityscapes,
    "oxford_pet": _oxford_pet,
}
