"""The file system of a folder: what kind, how much room, how fast."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from simclr_dist.doctor.findings import NOTE, PROBLEM, Finding
from simclr_dist.units import show_bytes, show_rate

_SHARED = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "cifs",
    "smb",
    "afs",
    "9p",
    "glusterfs",
    "wekafs",
    "panfs",
    "fuse.sshfs",
)
_ROOM, _FILES = 10 << 30, 10_000


def findings(folder: Path, file_bytes: int = 64 << 20) -> Iterator[Finding]:
    """A file of ``file_bytes`` is written, flushed, read and removed."""
    area = f"folder {folder}"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".simclr_dist_doctor_") as scratch:
            written, read, renamed = _speeds(Path(scratch), file_bytes)
    except OSError as error:
        cure = "choose another folder with --dir, or mend this one; a run's folder is machine.run_dir"
        yield Finding(area, "writing", f"fails: {error.strerror}", PROBLEM, cure)
        return
    kind = kind_of(folder)
    shared = any(kind.startswith(each) for each in _SHARED)
    yield Finding(area, "file system", f"{kind}{', on a network' if shared else ''}")
    yield from _room(area, folder)
    size = show_bytes(file_bytes)
    slow = (NOTE, "checkpoints take long: save less often (machine.save_every_steps)") if written < 50e6 else ()
    yield Finding(area, "write and flush", f"{show_rate(written)} ({size})", *slow)
    yield Finding(area, "read", f"{show_rate(read)} ({size}, perhaps still in memory)")
    yield Finding(area, "rename and flush", f"{1e3 * renamed:.1f} ms (median of 10)")


def kind_of(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Type of the file system that holds ``folder``."""
    try:
        lines = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return "unknown"
    here = folder.resolve()
    # Of several at one location the last one covers the others. Spaces stand there as \040.
    found = [
        (len(point), number, kind)
        for number, (_, point, kind, *_) in enumerate(lines)
        if here.is_relative_to(point.replace("\\040", " "))
    ]
    return max(found)[2] if found else "unknown"


def _room(area: str, folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    cure = () if free >= _ROOM else (NOTE, "simclr-dist plan says how large the checkpoints of a run are")
    yield Finding(area, "free", show_bytes(free), *cure)
    counts = os.statvfs(folder)
    if counts.f_files:  # some file systems have no fixed number
        few = (
            (NOTE, "each run makes some dozens, a data set of loose images one for each")
            if counts.f_favail < _FILES
            else ()
        )
        yield Finding(area, "free files", f"{counts.f_favail:,}", *few)


def _speeds(folder: Path, file_bytes: int) -> tuple[float, float, float]:
    """Bytes/s written and flushed, bytes/s read, seconds of a rename with its flush."""
    path, block = folder / "file", os.urandom(1 << 20)
    started = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(file_bytes >> 20):
            file.write(block)
        os.fsync(file.fileno())
        written = file_bytes / (time.perf_counter() - started)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # else the read is of memory
    started = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
    read = file_bytes / (time.perf_counter() - started)
    return written, read, statistics.median(_renaming(path, folder) for _ in range(10))


def _renaming(path: Path, folder: Path) -> float:
    other = path.with_name("other")
    started = time.perf_counter()
    path.rename(other)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    seconds = time.perf_counter() - started
    other.rename(path)
    return seconds
