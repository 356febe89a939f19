"""Who compiles at the first start on a machine: one process after another, each in two processes at once."""

import fcntl
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MOST_SECONDS = 60.0  # the one before is stopped perhaps: what it compiles is then compiled again


@contextmanager
def one_after_another(name: str) -> Iterator[None]:
    """Of this user's processes on this machine one is in the block at a time, as far as a lock can be had.

    Those of a run start together. Where the first keeps what it compiles, the others find it; at once, they would
    share the cores for the same work.
    """
    path = Path(tempfile.gettempdir()) / f"simclr_dist-{os.getuid()}-{name}.lock"
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        until = time.monotonic() + _MOST_SECONDS
        while time.monotonic() < until:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
        yield
    finally:
        os.close(lock)


@contextmanager
def beside(part: Callable[[], object]) -> Iterator[None]:
    """``part`` runs in a copy of this process while the block runs: its effects on files are all that is left of it."""
    child = multiprocessing.get_context("fork").Process(target=part, daemon=True)
    child.start()
    try:
        yield
    finally:
        child.join(_MOST_SECONDS)
        child.kill()
        child.join()
