"""Images whose masks can be computed from them, in memory and as the files of the usual sets."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from simclr_dist.data.sources.base import ArraySource
from simclr_dist.methods.base import Method


class Dense(Method):
    """Asks for masks and geometry, and computes nothing."""

    needs = frozenset({"masks", "geometry"})


CLASSES = ["neither", "right", "below", "both"]


def own_threshold(image: Tensor) -> Tensor:
    """The mask of an image (..., 3, h, w) that is black or white in red and in green: 2 * green + red."""
    return 2 * (image[..., 1, :, :] >= 128).to(torch.uint8) + (image[..., 0, :, :] >= 128).to(torch.uint8)


class Thresholded(ArraySource):
    """Images of one edge in red, upright, and one in green, level, somewhere; their masks are their own thresholds."""

    def __init__(self, images: int = 24, height: int = 37, width: int = 53) -> None:
        random = np.random.default_rng(0)
        pixels = np.zeros((images, 3, height, width), dtype=np.uint8)
        for image in pixels:
            image[0, :, random.integers(width // 4, 3 * width // 4) :] = 255
            image[1, random.integers(height // 4, 3 * height // 4) :] = 255
        super().__init__(pixels, None, [])
        self.mask_classes = CLASSES

    def read_with_mask(self, sample: int) -> tuple[Tensor, Tensor]:
        image = self.read(sample)
        return image, own_threshold(image)


def write_picture(path: Path, width: int = 9, height: int = 6, **options: Any) -> None:
    """A JPEG, or what the suffix says, of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, **options)


def write_mask(path: Path, values: NDArray[np.uint8], mode: str = "P") -> None:
    """An index PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values, mode="L")
    if mode == "P":
        image.putpalette([channel for color in range(256) for channel in (color, 255 - color, color // 2)])
        image.info.pop("transparency", None)
    image.save(path)


def drawn(number: int, classes: int, width: int = 9, height: int = 6) -> NDArray[np.uint8]:
    """A mask of some of the classes, with an ignored line at its top."""
    mask = np.random.default_rng(number).integers(0, classes, (height, width), dtype=np.uint8)
    mask[0] = 255
    return mask


def write_voc(root: Path, **splits: list[str]) -> None:
    """VOCdevkit/VOC2012 with images named by split; image number i of all has the mask ``drawn(i, 21)``."""
    folder, number = root / "VOCdevkit" / "VOC2012", 0
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, names in splits.items():
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            write_picture(folder / "JPEGImages" / f"{name}.jpg")
            write_mask(folder / "SegmentationClass" / f"{name}.png", drawn(number, 21))
            number += 1


def write_sbd(folder: Path, **splits: list[str]) -> None:
    """SBD as its benchmark_RELEASE/dataset; image number i has the mask ``drawn(100 + i, 21)`` without its line."""
    number = 100
    (folder / "cls").mkdir(parents=True)
    for split, names in splits.items():
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            write_picture(folder / "img" / f"{name}.jpg")
            segmentation = np.where(drawn(number, 21) == 255, 0, drawn(number, 21)).astype(np.uint8)
            savemat(folder / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": segmentation}})
            number += 1


def write_cityscapes(root: Path, city: str, split: str, numbers: list[int], values: NDArray[np.uint8]) -> None:
    """leftImg8bit/ and gtFine/ of a city, every image with the same label ids."""
    for number in numbers:
        name = f"{city}_{number:06}_000019"
        write_picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        write_mask(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", values, mode="L")


def write_pets(root: Path, split: str, breeds: dict[str, int], values: NDArray[np.uint8]) -> None:
    """oxford-iiit-pet/ with images named by breed and number, every one with the same trimap."""
    folder = root / "oxford-iiit-pet"
    lines = []
    for name, breed in breeds.items():
        lines.append(f"{name} {breed} 1 1\n")
        write_picture(folder / "images" / f"{name}.jpg")
        write_mask(folder / "annotations" / "trimaps" / f"{name}.png", values, mode="L")
    (folder / "annotations" / f"{split}.txt").write_text("".join(lines))


def write_folder(root: Path, count: int, classes: list[str], **options: Any) -> None:
    """images/, masks/ and classes.txt; image number i has the mask ``drawn(i, classes)``."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    for number in range(count):
        write_picture(root / "images" / f"{number}.jpg", **options)
        write_mask(root / "masks" / f"{number}.png", drawn(number, len(classes)))
