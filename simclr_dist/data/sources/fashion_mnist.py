"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): IDX files, as torchvision and as Linux distributions lay them."""

import gzip
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from simclr_dist.data.sources.base import ArraySource
from simclr_dist.errors import UserError


class Files(NamedTuple):
    """The two files of a split, compressed (.gz) or not."""

    images: Path
    labels: Path


def find_files(path: Path, split: str) -> Files:
    """In the folder itself, or below it where torchvision puts them (FashionMNIST/raw).

    Raises:
        UserError: one is not there; how to get them.
    """
    part = "t10k" if split == "test" else "train"
    return Files(_find(path, f"{part}-images-idx3-ubyte"), _find(path, f"{part}-labels-idx1-ubyte"))


def _find(path: Path, name: str) -> Path:
    for folder in (path, path / "FashionMNIST" / "raw", path / "raw"):
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    raise UserError(
        f"recipe.data.path: no {name}, nor {name}.gz, in {path}; Debian's package dataset-fashion-mnist has the files "
        "of Fashion-MNIST in /usr/share/datasets/fashion-mnist, and torchvision.datasets.FashionMNIST(PATH, "
        "download=True) gets them"
    )


def read_files(files: Files) -> ArraySource:
    """The images of a split, grey in three equal channels as PIL's and torchvision's conversion to RGB.

    Raises:
        Exception: whatever torchvision's reader meets in damaged files.
    """
    with tempfile.TemporaryDirectory() as folder:
        grey = read_image_file(str(_plain(files.images, folder))).numpy()
        labels = read_label_file(str(_plain(files.labels, folder))).numpy()
    if len(grey) != len(labels):
        raise ValueError(f"{len(grey)} images and {len(labels)} labels")
    images = np.broadcast_to(grey[:, None], (len(grey), 3, *grey.shape[1:]))  # the memory of one channel
    return ArraySource(images, labels.astype(np.int64), list(FashionMNIST.classes))


def _plain(file: Path, folder: str) -> Path:
    """The file unpacked, as torchvision's reader takes none that is compressed."""
    if file.suffix != ".gz":
        return file
    unpacked = Path(folder, file.stem)
    with gzip.open(file) as packed, unpacked.open("wb") as output:
        shutil.copyfileobj(packed, output)
    return unpacked
