"""Files locked by flock, which the kernel lets go when their process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simclr_dist.errors import UserError


@contextmanager
def alone(path: Path, refusal: str) -> Iterator[int]:
    """A descriptor of a file that no other process has meanwhile: made where there is none, removed unless renamed.

    Raises:
        UserError: another process has it; the message is ``refusal``.
        OSError: as the file system says.
    """
    descriptor = _locked(path, refusal)
    try:
        yield descriptor
    finally:
        with suppress(OSError):
            if _has_name(descriptor, path):
                path.unlink()  # while it is locked: later it may be another process's
        let_go(descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process has a file locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        let_go(descriptor)
    return False


def let_go(descriptor: int) -> None:
    """Unlock a file and close it."""
    # Not by closing alone: a process that was forked meanwhile has the descriptor too, and would keep the lock.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _locked(path: Path, refusal: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between the two calls whoever had it may have renamed or removed it.
            if _has_name(descriptor, path):
                return descriptor
        except BaseException as error:
            let_go(descriptor)
            if isinstance(error, BlockingIOError):
                raise UserError(refusal) from error
            raise
        let_go(descriptor)


def _has_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
