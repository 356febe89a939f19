"""The index of a set of shards: columns as .npy files, mapped by every process, and index.json, which names them.

Ten million samples are 240 MB of columns, 80 of labels and their names, once a node in the page cache; a process itself
holds the shards' names alone.
"""

import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simclr_dist.data.sources.shards.samples import Label
from simclr_dist.errors import UserError, first_line
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.storage.sealed_json import read_sealed
from simclr_dist.terminal import printable, typed

VERSION = 1
NAME = "index.json"
CHECKED_BYTES = 256 << 20
"""Columns together up to this size are compared with their checksums at every opening."""
COLUMNS = {"names": "u1", "ends": "<i8", "offsets": "<i8", "lengths": "<u4", "crcs": "<u4", "labels": "<i8"}


class NoIndexError(UserError):
    """An index is missing, or damaged: making it anew mends it."""


class Shard(NamedTuple):
    """A tar file as it was indexed."""

    name: str
    """Below the root."""
    size: int
    mark: str
    """Its stamp where it was indexed: ETag or time."""
    samples: int
    digest: str
    """Of its samples."""
    layout: str
    """Of where they stand in it: what a copy must have in common."""
    left_out: int


@dataclass
class Part:
    """The samples of one shard."""

    shard: Shard
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    """Where each name ends in ``names``."""
    offsets: NDArray[np.int64]
    lengths: NDArray[np.uint32]
    crcs: NDArray[np.uint32]
    labels: list[Label]


@dataclass
class ShardIndex:
    """What is known of a set of shards; sample ids count through the shards in the order of their names."""

    folder: Path
    root: str
    """Where they were indexed."""
    labels_from: str
    shards: list[Shard]
    starts: NDArray[np.int64]
    """First sample id of each shard, and the number of samples last: shape (shards + 1,)."""
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.uint32]
    crcs: NDArray[np.uint32]
    labels: NDArray[np.int64] | None
    classes: list[str]
    partly_labelled: bool
    """Some images have labels: ``labels`` is None for want of the others'."""
    fingerprint: str

    def __len__(self) -> int:
        return int(self.starts[-1])

    def shard_of(self, sample: int) -> int:
        """The number of the shard that holds a sample."""
        return int(np.searchsorted(self.starts, sample, side="right")) - 1

    def member(self, sample: int) -> str:
        """A sample's name within its shard."""
        start = int(self.ends[sample - 1]) if sample else 0
        return os.fsdecode(self.names[start : int(self.ends[sample])].tobytes())

    def command(self) -> str:
        """What brings the index up to date."""
        return typed("data", "index", self.root, self.folder, "--labels", self.labels_from)

    def part(self, number: int) -> Part:
        """What was indexed of a shard."""
        start, end = int(self.starts[number]), int(self.starts[number + 1])
        first = int(self.ends[start - 1]) if start else 0
        last = int(self.ends[end - 1]) if end > start else first
        rows = slice(start, end)
        found = [None] * (end - start) if self.labels is None else self.labels[rows].tolist()
        return Part(
            self.shards[number],
            self.names[first:last],
            self.ends[rows] - first,
            self.offsets[rows],
            self.lengths[rows],
            self.crcs[rows],
            self._raw(found),
        )

    def _raw(self, labels: list[Any]) -> list[Label]:
        if are_numbers(self.classes):
            return labels
        return [None if each is None else self.classes[each] for each in labels]


def are_numbers(classes: list[str]) -> bool:
    """Whether the names of classes are their numbers."""
    return all(name == str(number) for number, name in enumerate(classes))


def is_index(folder: Path) -> bool:
    """Whether an index stands in a folder."""
    return (folder / NAME).is_file()


def read_index(folder: Path) -> ShardIndex:
    """The index in a folder, mapped.

    Raises:
        NoIndexError: it is missing or damaged.
        UserError: it is of a newer version, or cannot be read now.
    """
    path = folder / NAME
    cure = "make it with: simclr-dist data index SHARDS"
    try:
        content = read_sealed(path, VERSION)
        shards = [Shard(*each) for each in content["shards"]]
        columns = {name: _mapped(folder / content["columns"] / f"{name}.npy") for name in content["crc32"]}
        if sum(column.nbytes for column in columns.values()) <= CHECKED_BYTES:
            for name, column in columns.items():
                if zlib.crc32(column.data) != content["crc32"][name]:
                    raise ValueError(f"the checksum of {name}.npy does not match its contents")
    except FileNotFoundError as error:
        missing = printable(str(error.filename))
        raise NoIndexError(
            f"{printable(str(folder))}: is no index of shards ({missing} is missing); {cure} {folder}"
        ) from error
    except OSError as error:
        raise cannot_be_read(path, error) from error
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NoIndexError(f"{path}: a damaged index ({first_line(error)}); {cure} {folder}") from error
    starts = np.cumsum([0, *(shard.samples for shard in shards)], dtype=np.int64)
    if any(len(columns[name]) != starts[-1] for name in columns if name != "names"):
        raise NoIndexError(f"{path}: a damaged index (columns of another length); {cure} {folder}")
    return ShardIndex(
        folder=folder,
        root=content["root"],
        labels_from=content["labels_from"],
        shards=shards,
        starts=starts,
        labels=columns.pop("labels", None),
        classes=content["classes"],
        # Of an index from before this was written nobody knows.
        partly_labelled=content.get("partly_labelled", not content["labelled"] and content["labels_from"] != "none"),
        fingerprint=content["fingerprint"],
        **columns,
    )


def _mapped(path: Path) -> NDArray[Any]:
    # An empty file cannot be mapped.
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        if os.fstat(file.fileno()).st_size != file.tell() + shape[0] * kind.itemsize:
            raise ValueError(f"{path.name} is cut")
    return np.asarray(np.load(path, mmap_mode="r" if shape[0] else None, allow_pickle=False))
