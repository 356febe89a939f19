"""Fetched shards in a bounded folder of the node's disk: one copy for all processes and runs that use the folder.

    LAYOUT.tar      a shard; locked (shared) while it is read
    LAYOUT.part     one that is being fetched, of its full size from the beginning; locked by who fetches it
    wanted/NAME     what a living process will want, in its order; locked by it as long as it lives
    lock            held while something is added or removed

All locks are flock's, which the kernel lets go when their process ends. docs/design/shards.md compares.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from simclr_dist.data.sources.shards.wanted import WantedLists
from simclr_dist.errors import UserError, is_of_full_disk
from simclr_dist.storage.flocks import is_held, let_go
from simclr_dist.terminal import printable
from simclr_dist.units import show_bytes

FETCHED_AHEAD_AT_ONCE = 8
"""Shards that a node fetches ahead of need at a time."""
_TOUCHED_SECONDS = 5.0


class Refused(NamedTuple):
    """Why a shard is not fetched now; both pass."""

    is_being_fetched: bool
    """By somebody; else there is no room, as all that is there is read or wanted."""


class ShardCache:
    """As one process sees it."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be made or written.
        """
        self.folder, self.limit_bytes = folder, limit_bytes
        self._wanted = WantedLists(folder / "wanted")
        try:
            self._wanted.folder.mkdir(parents=True, exist_ok=True)
            with self._locked():
                pass
        except OSError as error:
            raise self._no_folder(error) from error

    @contextmanager
    def reading(self, layout: str) -> Iterator[int | None]:
        """A descriptor of a shard that is there; None: it is not. It cannot be removed meanwhile."""
        path = self._path(layout)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            facts = os.fstat(descriptor)
            if not facts.st_nlink:  # removed between the two
                yield None
                return
            if time.time() - facts.st_mtime > _TOUCHED_SECONDS:
                with suppress(OSError):
                    os.utime(descriptor)
            yield descriptor
        finally:
            let_go(descriptor)

    def has(self, layout: str) -> bool:
        """Whether a shard is there now."""
        return self._path(layout).exists()

    def want(self, layouts: list[str]) -> None:
        """Say what this process will read, the next first; others then leave it."""
        with self._locked():
            self._wanted.write(layouts)

    @contextmanager
    def fetching(self, layout: str, size: int, *, ahead: bool) -> Iterator["Refused | Fetch"]:
        """Room for a shard, and the right to fetch it: it is there when the block ends, if all of it was written.

        Args:
            layout: of the shard.
            size: its bytes.
            ahead: nobody waits for it: nothing that anybody wants is removed for it.

        Raises:
            UserError: the disk has no room, or the folder is not as it should be.
        """
        try:
            with self._locked():
                begun = self._begin(layout, size, ahead)
        except OSError as error:
            raise self._no_folder(error) from error
        if isinstance(begun, Refused):
            yield begun
            return
        fetch = Fetch(begun, size)
        part = self._path(layout, "part")
        try:
            yield fetch
            with self._locked():  # who counts what is here would count it twice or not at all
                if fetch.written == size:
                    part.rename(self._path(layout))
                else:
                    part.unlink()
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
        finally:
            let_go(begun)

    def remove(self, layout: str) -> None:
        """A copy that is not what it should be."""
        with self._locked(), suppress(FileNotFoundError):
            self._path(layout).unlink()

    def used_bytes(self) -> int:
        """What the shards take, those that are being fetched at their full size."""
        with self._locked():
            return self._used()

    def _used(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _begin(self, layout: str, size: int, ahead: bool) -> "Refused | int":
        """A descriptor of the file to fill, locked. Called with the folder's lock."""
        if self._path(layout).exists():
            return Refused(is_being_fetched=True)
        fetched = 0
        for path, _, _ in self._files("part"):
            if is_held(path):
                fetched += 1
                if path.name == f"{layout}.part":
                    return Refused(is_being_fetched=True)
            else:
                path.unlink(missing_ok=True)
        if ahead and fetched >= FETCHED_AHEAD_AT_ONCE:
            return Refused(is_being_fetched=False)
        victims = self._victims(layout, ahead)
        used = self._used()
        while used + size > self.limit_bytes:
            if (freed := _remove_first(victims)) is None:
                return Refused(is_being_fetched=False)
            used -= freed
        path = self._path(layout, "part")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        while True:
            try:
                os.posix_fallocate(descriptor, 0, size)
                return descriptor
            except OSError as error:
                if is_of_full_disk(error) and _remove_first(victims) is not None:
                    continue
                path.unlink()
                let_go(descriptor)
                if not is_of_full_disk(error):
                    raise
                if ahead:
                    return Refused(is_being_fetched=False)
                raise UserError(
                    f"machine.shards.cache_folder: no room for a shard of {show_bytes(size)} in "
                    f"{printable(str(self.folder))}, which holds {show_bytes(self._used())}: the disk is full; "
                    "make room, choose another folder, or lower machine.shards.cache_gigabytes"
                ) from error

    def _victims(self, layout: str, ahead: bool) -> list[tuple[Path, int]]:
        """What may be removed, and its bytes: what nobody wants, the longest unread first, then the last wanted."""
        wanted = self._wanted.soonest()
        files = [(path, size, read) for path, size, read in self._files("tar") if path.stem != layout]
        free = sorted((read, path, size) for path, size, read in files if path.stem not in wanted)
        found = [(path, size) for _, path, size in free]
        if not ahead:
            by_need = ((wanted[path.stem], path, size) for path, size, _ in files if path.stem in wanted)
            held = sorted(by_need, reverse=True)
            found += [(path, size) for _, path, size in held]
        return found

    def _files(self, *kinds: str) -> list[tuple[Path, int, int]]:
        """Path, bytes and time of the last reading of what stands here."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.rpartition(".")[2] in (kinds or ("tar", "part")):
                    with suppress(FileNotFoundError):
                        facts = entry.stat()
                        found.append((Path(entry.path), facts.st_size, facts.st_mtime_ns))
        return found

    def _path(self, layout: str, kind: str = "tar") -> Path:
        return self.folder / f"{layout}.{kind}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            let_go(descriptor)

    def _no_folder(self, error: OSError) -> UserError:
        return UserError(
            f"machine.shards.cache_folder: {printable(str(self.folder))} cannot be written: {error.strerror}; give a "
            "folder of the node's own disk that can"
        )


class Fetch:
    """A file that is being filled from its beginning."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor, self.size, self.written = descriptor, size, 0

    def fill(self, parts: Iterable[bytes]) -> None:
        """Write all parts.

        Raises:
            OSError: as the file system says.
        """
        for part in parts:
            view = memoryview(part)
            while view:
                count = os.pwrite(self.descriptor, view, self.written)
                self.written, view = self.written + count, view[count:]


def _remove_first(victims: list[tuple[Path, int]]) -> int | None:
    """Remove the first file that nobody reads, out of the list too; its bytes. None: all are read."""
    while victims:
        path, size = victims.pop(0)
        with suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                return size
            except BlockingIOError:
                continue
            finally:
                let_go(descriptor)
    return None
