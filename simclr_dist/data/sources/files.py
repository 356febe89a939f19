"""Images in files: found below a folder, read as bytes, decoded when they are wanted."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_dist.data.sources.base import BrokenImageError
from simclr_dist.data.sources.decoding import check_beginning, decode
from simclr_dist.data.sources.identity import FileStates
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.errors import UserError, first_line
from simclr_dist.terminal import printable

MAX_FILE_BYTES = 2**30
"""The largest picture of decoding.MAX_PIXELS, as it is without any compression, has half of that."""
_READ_BYTES = 1 << 16

# What the system says of a file that is broken, wherever and whenever it is asked. Anything else (a disk that fails, a
# server that does not answer, no more memory or descriptors) is said of one machine at one moment: an image replaced
# for that would make this machine's trajectory another one, so it ends the run.
_OF_THE_FILE = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM,
)  # fmt: skip
_NO_FILE = (errno.ENXIO, errno.ENODEV)  # sockets, devices without a driver


class FileSource:
    """Images in files.

    The names stand in one block of bytes, not in a list: a list of a million strings would be copied, page by page,
    into every loader worker as its reference counts are touched.
    """

    check: Callable[[bytes], None] = staticmethod(check_beginning)
    """Refuses what the first bytes of a file show to be none of this kind."""

    def __init__(
        self,
        root: Path,
        names: list[str],
        labels: list[int] | None,
        classes: list[str],
        rule: PixelRule | None = None,
        remarks: Sequence[str] = (),
        *,
        pretrained_on: bool = False,
    ) -> None:
        """``names`` are paths below ``root``; ``remarks`` say in words what was left out of them and why.

        ``pretrained_on``: whether pretraining on the same folder sees these images, though they are held out.
        """
        encoded = [os.fsencode(name) for name in names]
        self.root, self.rule = root, rule or PixelRule()
        self.remarks, self.pretrained_on = tuple(remarks), pretrained_on
        self._names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.labels: NDArray[np.int64] | None = None if labels is None else np.asarray(labels, dtype=np.int64)
        self.classes = classes

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, sample: int) -> str:
        start = self._ends[sample - 1] if sample else 0
        return os.fsdecode(self._names[start : self._ends[sample]].tobytes())

    def printable_name(self, sample: int) -> str:
        """The name in one line of ASCII: it may hold any bytes."""
        return printable(self.name(sample))

    def content(self, sample: int) -> bytes:
        """The bytes of a file that begins like an image.

        Raises:
            BrokenImageError: there is none, or it cannot be one.
            UserError: it cannot be read because of the storage or this machine.
        """
        path = os.path.join(self.root, self.name(sample))
        try:
            return read_image_file(path, self.check)
        except OSError as error:
            if error.errno not in (None, *_OF_THE_FILE):
                raise _not_its_fault(path, error) from error
            if not os.path.isdir(self.root):  # a share that is no longer mounted, say: not one image is missing but all
                raise _not_its_fault(str(self.root), error) from error
            raise self._broken(sample, error) from error
        except MemoryError as error:
            raise _too_little_memory(path) from error

    def read(self, sample: int) -> Tensor:
        """The image as uint8 of shape (3, height, width), a view of (height, width, 3).

        Raises:
            BrokenImageError: it cannot be decoded.
            UserError: it cannot be read because of the storage or this machine.
        """
        content = self.content(sample)
        try:
            pixels = decode(content, self.rule)
        except MemoryError as error:
            raise _too_little_memory(os.path.join(self.root, self.name(sample))) from error
        except Exception as error:  # Pillow's decoders raise almost anything on damaged input
            raise self._broken(sample, error) from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def fingerprint(self) -> str:
        """Of names and sizes: a copy has the same.

        Raises:
            UserError: the file system does not answer.
        """
        return hashlib.sha256(self.names_fingerprint().encode() + self.states().sizes.tobytes()).hexdigest()

    def names_fingerprint(self) -> str:
        """Of the names alone, as earlier versions had it."""
        return hashlib.sha256(self._ends.tobytes() + self._names.tobytes()).hexdigest()

    def states(self) -> FileStates:
        """Sizes and times of the files, asked now.

        Raises:
            UserError: the file system does not answer.
        """
        return FileStates.of(self.root, [self.name(sample) for sample in range(len(self))])

    def _broken(self, sample: int, error: Exception) -> BrokenImageError:
        return BrokenImageError(f"{self.printable_name(sample)}: {type(error).__name__}: {reason_of(error)}")


def read_image_file(path: str, check: Callable[[bytes], None] = check_beginning) -> bytes:
    """The whole of a file that begins like an image, by ``check``; of any other the beginning is looked at.

    Raises:
        OSError: it is no file of a size that an image has, or no image, or the system cannot read it.
    """
    try:
        # Without O_NONBLOCK a FIFO would be open only when somebody writes into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise OSError("not a regular file") from error
        raise
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise OSError("not a regular file")
        if facts.st_size > MAX_FILE_BYTES:
            raise OSError(f"{facts.st_size} bytes, more than {MAX_FILE_BYTES}")
        head = os.read(descriptor, min(facts.st_size, _READ_BYTES))
        check(head)
        parts, left = [head], facts.st_size - len(head)
        while left and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def reason_of(error: Exception) -> str:
    """Of an error in one line, without a path."""
    # The system's own words for its errors: Python's add the path, which is another one on another machine.
    return getattr(error, "strerror", None) or first_line(error)


def _not_its_fault(path: str, error: OSError) -> UserError:
    return UserError(
        f"{printable(path)}: cannot be read: {reason_of(error)}; the storage or this machine fails, not the image: "
        "start again when it is mended. Where only this file is lost, put an empty one in its place: it counts as "
        "broken then"
    )


def _too_little_memory(path: str) -> UserError:
    return UserError(
        f"{printable(path)}: not enough memory to read it; give the job more, or lower machine.loader_workers"
    )
