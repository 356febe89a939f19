"""What is said of a run folder that takes no more."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simclr_dist.errors import UserError, is_of_full_disk

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """What is written inside is of this run.

    Raises:
        UserError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        cure = "mend the storage, or choose another folder"
        if is_of_full_disk(error):
            cure = "make room, then start again to resume from the last checkpoint, if there is one"
        elif error.errno in _FORBIDDEN:
            cure = "get the permission, or choose another folder"
        raise UserError(f"machine.run_dir: {run_dir} cannot be written: {error.strerror}; {cure}") from error
