"""All images of a folder whatever its classes and splits, and the name of every image of any source."""

import os
from collections.abc import Collection

import numpy as np

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.base import ImageSource, Subset
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.folders import IMAGE_SUFFIXES, find_images
from simclr_dist.data.sources.outside import CheckedSource
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.shards.source import ShardSource
from simclr_dist.data.sources.videos import VideoFrames
from simclr_dist.errors import UserError
from simclr_dist.storage.paths import expanded
from simclr_dist.terminal import printable


def open_whole(data: Data) -> FileSource:
    """Every image at any depth below the folder ``data.path``, in the order of the names, without labels.

    Raises:
        UserError: it is no folder, cannot be listed, or holds no images.
    """
    root = expanded("recipe.data.path", data.path)
    shown = printable(str(root))
    if not root.is_dir():
        raise UserError(f"{shown}: is not a folder; give the folder of the images")
    found = find_images(root)
    left_out = found.left_out()
    if not found.names:
        passed_over = f"; left out: {', '.join(left_out)}" if left_out else ""
        raise UserError(f"{shown}: no images in it (looked for {', '.join(IMAGE_SUFFIXES)}{passed_over})")
    remarks = [f"left out: {', '.join(left_out)}"] if left_out else []
    return FileSource(root, found.names, None, [], PixelRule.of(data), remarks)


def image_name(source: ImageSource, sample: int) -> str:
    """The path below the source's folder where the images are files; else the number of the image, from 0.

    Of one in a shard: the shard's name and the image's in it; of a frame its video's, and its number in it.
    """
    if isinstance(source, FileSource | ShardSource | VideoFrames):
        return source.name(sample)
    if isinstance(source, Subset):
        return image_name(source.source, int(source.indices[sample]))
    if isinstance(source, CheckedSource):
        return image_name(source.source, sample)
    return str(sample)


def path_of(source: ImageSource, sample: int) -> str:
    """Of an image that is a file; of one in a shard or a video that of its file, with its name in it; else ""."""
    if isinstance(source, ShardSource):
        return f"{source.shards.store.root}/{source.name(sample)}"
    return os.path.join(source.root, source.name(sample)) if isinstance(source, FileSource | VideoFrames) else ""


def without(source: ImageSource, paths: Collection[str]) -> ImageSource:
    """The images of a source that lie at none of some paths, as :func:`path_of` says; the source itself when all do."""
    kept = [sample for sample in range(len(source)) if path_of(source, sample) not in paths] if paths else []
    return source if not paths or len(kept) == len(source) else Subset(source, np.array(kept, dtype=np.int64))
