"""Files that exactly one process makes, on network file systems too."""

import errno
import os
from pathlib import Path

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def create_exclusively(file: Path, content: bytes, temporary: Path) -> bool:
    """Make ``file``; whoever sees it sees all of it. False: it is there.

    On file systems without links it is there and empty for a moment.

    Args:
        file: the name.
        content: not empty.
        temporary: a name beside it, of this caller alone.

    Raises:
        OSError: as the file system says.
    """
    try:
        _write(temporary, "wb", content)
        try:
            os.link(temporary, file)
        except FileExistsError:
            # NFS may make the link and lose its answer; asked again it says that the name is there.
            return temporary.stat().st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_link(file, content)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _create_without_link(file: Path, content: bytes) -> bool:
    try:
        _write(file, "xb", content)
    except FileExistsError:
        return False
    return True


def _write(path: Path, mode: str, content: bytes) -> None:
    with path.open(mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
