"""Files locked by flock, which the kernel lets go when their process ends."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path


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
