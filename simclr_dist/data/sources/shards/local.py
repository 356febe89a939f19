"""Shards below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path

from simclr_dist.data.sources.shards.place import Stamp
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable


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
