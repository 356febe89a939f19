"""Patches of six real photographs (scikit-image's and scikit-learn's) as a labelled data set; class = photograph.

    pip install .[dev]
    python benchmarks/photographs.py FOLDER [--side 32] [--train 200] [--test 50]

writes FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png, split by place: the test patches of a photograph lie in
its right quarter, the training patches to the left of it, so no pixel is in both.
"""

import argparse
from pathlib import Path

import numpy as np
import skimage.data
import sklearn.datasets
from numpy.typing import NDArray
from PIL import Image

TEST_SHARE = 0.25


def photographs() -> dict[str, NDArray[np.uint8]]:
    """By name, (height, width, 3)."""
    found = {name: getattr(skimage.data, name)()[..., :3] for name in ("astronaut", "coffee", "chelsea", "rocket")}
    return found | {name: sklearn.datasets.load_sample_image(f"{name}.jpg") for name in ("china", "flower")}


def random_patch(photograph: NDArray[np.uint8], side: int, generator: np.random.Generator) -> Image.Image:
    """A square of at most 2 * side pixels from anywhere in a photograph, resized to ``side``."""
    patch = min(2 * side, *photograph.shape[:2])
    top, left = (int(generator.integers(0, extent - patch + 1)) for extent in photograph.shape[:2])
    return Image.fromarray(photograph[top : top + patch, left : left + patch]).resize((side, side))


def write_labelled_patches(folder: Path, *, side: int = 32, train: int = 200, test: int = 50) -> None:
    """``train`` and ``test`` patches of each photograph; always the same."""
    generator = np.random.default_rng(0)
    for name, photograph in photographs().items():
        border = round(photograph.shape[1] * (1 - TEST_SHARE))
        for split, part, count in (("train", photograph[:, :border], train), ("test", photograph[:, border:], test)):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                random_patch(part, side, generator).save(folder / split / name / f"{number:04}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for option, default in (("side", 32), ("train", 200), ("test", 50)):
        parser.add_argument(f"--{option}", type=int, default=default)
    given = vars(parser.parse_args())
    write_labelled_patches(given.pop("folder"), **given)
