"""Files that stand on the disk whole, or not at all."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from simclr_dist.storage.temporary import temporary_name


def write_atomically(
    path: Path, content: bytes | Callable[[BinaryIO], None], check: Callable[[Path], None] = lambda temporary: None
) -> None:
    """Either the whole content stands under ``path`` and on the disk, or what stood there before.

    Args:
        path: the file.
        content: what it shall hold, or what writes that into a file.
        check: called with the file under its temporary name, when all of it is on the disk.

    Raises:
        OSError: as the file system or ``check`` says.
    """
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(content) if isinstance(content, bytes) else content(file)
            file.flush()
            os.fsync(file.fileno())
        check(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Bring a folder's new names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
