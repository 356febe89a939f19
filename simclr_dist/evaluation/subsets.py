"""Which images a classifier may learn from: class-balanced, fixed by a number, nested, and named by their SHA-256."""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from simclr_dist.data.sources.base import ImageSource, Subset
from simclr_dist.data.sources.files import FileSource
from simclr_dist.data.sources.masked_files import digest_of_names, first_by_hash
from simclr_dist.errors import UserError
from simclr_dist.random.philox import Purpose, uniforms

Indices = NDArray[np.int64]
Labels = NDArray[np.int64]
Count = Callable[[int], int]


def labels_of(source: ImageSource) -> Labels:
    """The class of each image.

    Raises:
        UserError: the source has no labels.
    """
    if source.labels is None:
        raise UserError("recipe.data: the images have no labels to evaluate with; sort them into one folder a class")
    return source.labels


def few_labels(labels: Labels, per_class: int, split: int) -> Indices:
    """Indices of ``per_class`` images of each class (all of a smaller one), drawn for ``split``; ordered by class.

    They depend on the split and the labels alone, and fewer are a subset of more.
    """
    return _drawn(labels, lambda members: per_class, split)


def share_of_labels(labels: Labels, share: float, split: int) -> Indices:
    """As :func:`few_labels`, the share of each class's images, one at least; all of them for 1."""
    return _drawn(labels, lambda members: max(1, round(share * members)), split)


def halves(labels: Labels, share: float, split: int) -> tuple[Indices, Indices]:
    """(all others, ``share`` of each class), both in ascending order: to fit on, and to choose on.

    A class of one image stays whole in the first.
    """
    held_out = _drawn(labels, lambda members: round(share * members) or (members > 1), split)
    return np.setdiff1d(np.arange(len(labels)), held_out), np.sort(held_out)


def first_with_masks(source: ImageSource, count: int) -> tuple[Indices, str]:
    """The ``count`` images that ``recipe.data.labelled_images`` leaves their masks, and the SHA-256 of their names.

    They are nested, and do not depend on a seed. An image that is no file has its number for a name.
    """
    numbers = {_name_of(source, sample): sample for sample in range(len(source))}
    chosen = first_by_hash(list(numbers), count)
    return np.array([numbers[name] for name in chosen], dtype=np.int64), digest_of_names(chosen)


def _name_of(source: ImageSource, sample: int) -> str:
    if isinstance(source, Subset):
        return _name_of(source.source, int(source.indices[sample]))
    return source.name(sample) if isinstance(source, FileSource) else str(sample)


def subset_digest(indices: Indices) -> str:
    """SHA-256 of the indices as little-endian 64-bit integers."""
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()


def _drawn(labels: Labels, count: Count, split: int) -> Indices:
    draw = uniforms(split, Purpose.LABELS, 0, np.arange(len(labels)), 0, 1)[:, 0]
    chosen = [np.empty(0, dtype=np.int64)]
    for number in range(labels.max() + 1):
        members = np.flatnonzero(labels == number)
        chosen.append(members[np.argsort(draw[members], kind="stable")][: int(count(len(members)))])
    return np.concatenate(chosen)
