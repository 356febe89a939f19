"""Where compiled loops are kept when numba finds no folder that it can write."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba

from simclr_dist.terminal import say

_config: Any = numba.config


@contextmanager
def last_resort() -> Iterator[bool]:
    """What is compiled in the block is kept in this user's own folder for temporary files, if that can be; is it?

    numba itself tries NUMBA_CACHE_DIR, the folder beside the source and ``~/.cache/numba``. None can be written in a
    read-only install without a home, as containers are, where every process would compile at every start.
    """
    folder, before = _folder(), _config.CACHE_DIR
    _config.CACHE_DIR = str(folder or before)
    try:
        yield folder is not None
    finally:
        _config.CACHE_DIR = before


def find_folder() -> Path | None:
    """The folder, made when it is not there, or None; says which on standard error.

    Others can write beside it, and what lies in it is code: a folder that is not ours alone is not used.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"simclr_dist-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        ours = False
    where = f"kept in {folder}" if ours else "not kept, and every process compiles its own for some seconds"
    if os.environ.get("RANK", "0") == "0":
        say(
            f"simclr-dist: compiled loops are {where}: NUMBA_CACHE_DIR, the program's folder and ~/.cache/numba cannot "
            "be written; set NUMBA_CACHE_DIR to a folder that can",
            err=True,
        )
    return folder if ours else None


_folder = cache(find_folder)
