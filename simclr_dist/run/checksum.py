"""The checksum of a checkpoint file: the SHA-256 of all before it, in the comment that a zip file may end with."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

MARK = b"simclr_dist sha256:"
COMMENT_BYTES = len(MARK) + 64


class DamagedCheckpointError(Exception):
    """The file is not what was written; the message says how."""


def write_with_checksum(file: BinaryIO, state: dict[str, Any]) -> None:
    """What ``torch.save`` writes of ``state``, with its checksum.

    Raises:
        OSError: as the file system says.
    """
    hashed = _Hashed(file)
    torch.save(state, hashed)  # type: ignore[arg-type]
    hashed.finish()


def verify(path: Path) -> None:
    """Read back what was written: from the disk, where the system lets go of its copy in memory.

    Raises:
        OSError: it is something else.
    """
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    try:
        checked_bytes(path)
    except DamagedCheckpointError as error:
        raise OSError(errno.EIO, f"what was written is not what is read back ({error})") from error


def checked_bytes(path: Path) -> bytes:
    """The contents of a file whose checksum holds.

    Raises:
        DamagedCheckpointError: it does not.
        OSError: the file cannot be read, which says nothing of what stands in it.
    """
    content = path.read_bytes()
    body, comment = memoryview(content)[:-COMMENT_BYTES], content[-COMMENT_BYTES:]
    if not comment.startswith(MARK):
        raise DamagedCheckpointError("no checksum at its end: cut off, or not a checkpoint of simclr_dist")
    if hashlib.sha256(body).hexdigest().encode() != comment[len(MARK) :]:
        raise DamagedCheckpointError("its checksum does not match its contents")
    return content


class _Hashed:
    """What ``torch.save`` writes into: hashed and passed on at once, without a second copy in memory.

    An error of the disk is kept for later and all that follows is dropped: torch's C++ would make another one of it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._held = file, hashlib.sha256(), b""
        self._error: OSError | None = None

    def write(self, content: memoryview | bytes) -> int:
        # The last two bytes are held back: they are the length of the comment, which is ours to say.
        kept = self._held + bytes(content[-2:])
        self._pass_on(kept[:-2])
        self._pass_on(content[:-2])
        self._held = kept[-2:]
        return len(content)

    def flush(self) -> None:
        pass

    def finish(self) -> None:
        """End the zip file with its comment.

        Raises:
            OSError: the first one met.
        """
        self._pass_on(COMMENT_BYTES.to_bytes(2, "little"))
        self._pass_on(MARK + self._digest.hexdigest().encode())
        if self._error:
            raise self._error

    def _pass_on(self, content: memoryview | bytes) -> None:
        self._digest.update(content)
        try:
            if not self._error:
                self._file.write(content)
        except OSError as error:
            self._error = error
