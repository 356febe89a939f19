"""Shards below a folder."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from simclr_dist.data.sources.shards.index import ShardIndex
from simclr_dist.data.sources.shards.place import Stamp
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable

_OPEN_FILES = 64


class LocalStore:
    """Files below a folder."""

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        return Path(self.root) / name

    def stamp(self, name: str) -> Stamp:
        try:
            facts = self.path(name).stat()
        except OSError as error:
            raise self.error(name, error) from error
        return Stamp(facts.st_size, str(facts.st_mtime_ns))

    def content(self, name: str, size: int) -> Iterator[bytes]:
        try:
            with self.path(name).open("rb", buffering=0) as file:
                while part := file.read(1 << 20):
                    size -= len(part)
                    yield part
        except OSError as error:
            raise self.error(name, error) from error
        if size:
            raise UserError(f"{printable(str(self.path(name)))}: changed while it was read; read it when it is whole")

    def error(self, name: str, error: OSError) -> UserError:
        """What is said of a shard that cannot be read."""
        cure = (
            "is it still there? see machine.shards.location, or index again"
            if isinstance(error, FileNotFoundError)
            else "start again when the storage is mended or the permission given"
        )
        return UserError(f"{printable(os.fspath(self.path(name)))}: shard cannot be read: {error.strerror}; {cure}")


class LocalShards:
    """The shards of an index, read where they lie."""

    def __init__(self, index: ShardIndex, store: LocalStore) -> None:
        self.index, self.store = index, store
        self._files: OrderedDict[int, int] = OrderedDict()

    def part(self, shard: int, start: int, size: int) -> bytes:
        """Bytes of a shard, fewer where it ends."""
        facts = self.index.shards[shard]
        try:
            if shard not in self._files:
                if len(self._files) >= _OPEN_FILES:
                    os.close(self._files.popitem(last=False)[1])
                self._files[shard] = os.open(self.store.path(facts.name), os.O_RDONLY | os.O_CLOEXEC)
            self._files.move_to_end(shard)
            return read_at(self._files[shard], start, size)
        except OSError as error:
            raise self.store.error(facts.name, error) from error

    def drop_copy(self, shard: int) -> bool:
        """There is none."""
        return False

    def check_window(self, shards: int) -> list[str]:
        """Nothing is held."""
        return []

    def will_read(self, shards: Iterator[int], window: object) -> None:
        """Nothing is fetched."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._files.values():
            with suppress(OSError):
                os.close(descriptor)


def read_at(descriptor: int, start: int, size: int) -> bytes:
    """Bytes of an open file, fewer where it ends."""
    parts, left = [], size
    while left and (part := os.pread(descriptor, left, start + size - left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
