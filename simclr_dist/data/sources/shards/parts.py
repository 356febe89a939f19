"""What a pass over shards keeps of each: a file by the shard's name and stamp, written when the shard is read."""

import json
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from simclr_dist.data.sources.shards.index import NoIndexError, Part, Shard, ShardIndex, read_index
from simclr_dist.data.sources.shards.place import Stamp
from simclr_dist.data.sources.shards.samples import ShardSamples, as_column
from simclr_dist.storage.atomic import write_atomically

_FOLDER = "parts"
"""In the index's folder."""


@dataclass
class KnownParts:
    """What earlier passes have found out of the shards as they are now."""

    parts: Path
    labels: str
    root: str
    stamps: dict[str, Stamp]
    index: ShardIndex | None
    numbers: dict[str, int]
    """Name -> its number in ``index``, of those that are still the same."""

    @classmethod
    def of(cls, out: Path, root: str, labels: str, now: dict[str, Stamp]) -> "KnownParts":
        index, numbers = None, {}
        with suppress(NoIndexError):
            index = read_index(out)
            # Where some labels were missing it has none: the shards that have theirs are read again.
            if (index.root, index.labels_from) == (root, labels) and not index.partly_labelled:
                numbers = {
                    shard.name: number
                    for number, shard in enumerate(index.shards)
                    if now.get(shard.name) == (shard.size, shard.mark)
                }
        return cls(out / _FOLDER, labels, root, now, index, numbers)

    def path(self, name: str) -> Path:
        """Of the shard as it is now, and of no other."""
        identity = json.dumps([self.root, self.labels, name, *self.stamps[name]])
        return self.parts / f"{sha256(identity.encode()).hexdigest()[:32]}.npz"

    def has_part(self, name: str) -> bool:
        return self.path(name).is_file()

    def part(self, name: str) -> Part:
        if name in self.numbers and self.index:
            return self.index.part(self.numbers[name])
        with np.load(self.path(name), allow_pickle=False) as stored:
            columns: dict[str, Any] = dict(stored)
        shard = Shard(*json.loads(columns.pop("shard").tobytes()))
        return Part(shard, labels=json.loads(columns.pop("labels").tobytes()), **columns)

    def keep(self, name: str, found: ShardSamples) -> None:
        """Write what is in a shard, as :meth:`part` reads it."""
        stamp = self.stamps[name]
        shard = Shard(
            name, stamp.size, stamp.mark, len(found), found.digest(), found.layout_digest(stamp.size), found.left_out
        )
        columns = {
            "shard": _as_bytes(shard),
            "labels": _as_bytes(found.labels),
            "names": np.frombuffer(b"".join(found.names), dtype=np.uint8),
            "ends": np.cumsum([len(each) for each in found.names], dtype="<i8"),
            "offsets": as_column(found.offsets),
            "lengths": as_column(found.lengths),
            "crcs": as_column(found.crcs),
        }
        write_atomically(self.path(name), lambda file: np.savez(file, **columns))


def _as_bytes(value: object) -> Any:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
