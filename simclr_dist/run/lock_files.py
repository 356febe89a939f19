"""The files of a lock: numbered, each made by exactly one process, on network file systems too."""

import errno
import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from simclr_dist.run.lock_owner import Owner
from simclr_dist.storage.exclusive import create_exclusively

_NAME = re.compile(r"lock_(\d+)\.json")


class Held(NamedTuple):
    """The newest file of a lock."""

    number: int
    """0: there is none."""
    holder: Owner | None
    """None: nobody, or the file is just being written."""
    changed: int
    """Its last change, ns, by the file server's clock."""


class LockFiles:
    """``lock_<number>.json`` in a folder, as one process sees and makes them."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self.folder, self.owner = folder, owner

    def newest(self) -> Held:
        """The file with the highest number."""
        for number, path in sorted(self._files(), reverse=True):
            with suppress(FileNotFoundError), path.open("rb") as file:
                return Held(number, Owner.read(file.read()), os.fstat(file.fileno()).st_mtime_ns)
        return Held(0, None, 0)

    def make_next(self, judged: Held) -> Path | None:
        """Make the file after ``judged``, which is removed; None when another process was faster.

        Raises:
            OSError: the folder cannot be written.
        """
        number = judged.number + 1
        device, inode = self.place()
        self.owner = replace(self.owner, device=device, inode=inode)
        file = self.folder / f"lock_{number:06d}.json"
        if not create_exclusively(file, self.owner.written(), self._temporary()):
            return None
        earlier = [path for found, path in self._files() if found < number]
        for path in earlier:
            with suppress(FileNotFoundError):
                if Owner.read(path.read_bytes()) != judged.holder:
                    # Everything was released and begun anew since it was judged: that one holds the folder.
                    file.unlink()
                    return None
        for path in earlier:
            path.unlink(missing_ok=True)
        return file

    def is_held(self, file: Path) -> bool:
        """Whether the owner's file is there and the newest.

        To open a file asks the file server; a lookup of its name alone may be answered by this host's cache.

        Raises:
            OSError: the file server does not answer.
        """
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.ESTALE:  # how NFS says that an open file was removed
                return False
            raise
        return Owner.read(content) == self.owner and max((path for _, path in self._files()), default=None) == file

    def place(self) -> tuple[int, int]:
        """The folder's device and inode, by which a copy differs from it."""
        facts = self.folder.stat()
        return facts.st_dev, facts.st_ino

    def now(self) -> float:
        """The file server's clock, in seconds as of st_mtime."""
        probe = self._temporary()
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _files(self) -> list[tuple[int, Path]]:
        found = [(_NAME.fullmatch(name), name) for name in os.listdir(self.folder)]
        return [(int(match[1]), self.folder / name) for match, name in found if match]

    def _temporary(self) -> Path:
        return self.folder / f".lock.{self.owner.token}.tmp"
