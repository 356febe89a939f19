"""A store of keys as files in a folder that all nodes share: it outlives every process, and every node.

The few operations that :class:`run_store.RunStore` uses of torch's stores, under their names. What is written once is
made by a link, so that one process alone makes it; what is written again gets its name by renaming. It is read by
opening it, which asks a file server where a lookup of the name may be answered by a cache.
"""

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

from simclr_dist.storage.exclusive import create_exclusively
from simclr_dist.storage.temporary import temporary_name


class FolderStore:
    """The store in one folder, for all threads of a process.

    Every method raises OSError when the folder cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def clone(self) -> "FolderStore":
        """Itself: there are no connections that one thread alone may use."""
        return self

    def check(self, keys: list[str]) -> bool:
        """Whether all keys have a value."""
        return all(self.get(key) for key in keys)

    def get(self, key: str) -> bytes:
        """The value; empty where there is none, or where it is just being written."""
        while True:
            try:
                return self._file(key).read_bytes()
            except FileNotFoundError:
                return b""
            except OSError as error:
                if error.errno != errno.ESTALE:  # NFS: another file got the name while this one was read
                    raise

    def set(self, key: str, value: str) -> None:
        """Give a key a value, in place of any other."""
        file = self._file(key)
        temporary = self._temporary(file)
        temporary.write_text(value, encoding="utf-8")  # not flushed to a disk: after a crash nobody needs it
        temporary.replace(file)

    def compare_set(self, key: str, expected: str, value: str) -> bytes:
        """Give a key a first value, and return that which it has then; ``expected`` must be "", for none."""
        assert not expected
        file = self._file(key)
        if not create_exclusively(file, value.encode(), self._temporary(file)):
            return self.get(key)
        return value.encode()

    def add(self, key: str, amount: int) -> int:
        """Count ``amount``, 0 or 1, and return the sum; every process gets another number when it counts."""
        count = self._count(key)
        while amount:
            count += 1
            file = self._file(f"{key} {count:06d} counted")
            if create_exclusively(file, b"1", self._temporary(file)):
                break
        return count

    def _count(self, key: str) -> int:
        begin, end = self._file(f"{key} ").name, self._file(" counted").name
        found = (name.removeprefix(begin).removesuffix(end) for name in os.listdir(self.folder) if name.endswith(end))
        return max((int(number) for number in found if number.isdecimal()), default=0)

    def _file(self, key: str) -> Path:
        return self.folder / key.replace(" ", "_")

    @staticmethod
    def _temporary(file: Path) -> Path:
        return temporary_name(file.with_name(f"{file.name}.{threading.get_ident()}"))

    def age(self, key: str) -> float | None:
        """Seconds since a key was set, by the file server's clock (those of hosts differ); None: it has no value."""
        probe = self._temporary(self._file("clock"))
        try:
            probe.touch()
            return probe.stat().st_mtime - self._file(key).stat().st_mtime
        except FileNotFoundError:
            return None
        finally:
            probe.unlink(missing_ok=True)

    def remove(self) -> None:
        """The folder with all that is in it; what cannot be removed stays."""
        with suppress(OSError):
            for file in self.folder.iterdir():
                file.unlink(missing_ok=True)
            self.folder.rmdir()

    def remove_others(self) -> None:
        """The folders beside it, of stores that nobody uses any more."""
        with suppress(OSError):
            for other in self.folder.parent.iterdir():
                if other != self.folder:
                    FolderStore(other).remove()
