"""Checkpoints: one file for all processes, written atomically, with a checksum, never half there.

The file is what ``torch.save`` writes, so ``torch.load`` reads it; its SHA-256 stands in the comment that a zip file
may end with. Protocol of a save: a temporary file in the same folder, flushed to the disk, read back and compared with
its checksum, renamed to the final name, the folder flushed; only then are old ones removed. Whoever is killed at any
point leaves the old checkpoints and perhaps a temporary file, which the next save removes.
"""

import io
import os
import pickle
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import torch

from simclr_dist.errors import UserError, code_in_file, first_line, is_of_memory
from simclr_dist.log import log
from simclr_dist.run.checksum import COMMENT_BYTES, MARK, checked_bytes, verify, write_with_checksum
from simclr_dist.run.checksum import DamagedCheckpointError as DamagedCheckpointError
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.reading import cannot_be_read

FORMAT = 1
LAST = "last.pt"
# A file server that is restarted, or that moves a file, answers again within seconds.
_ATTEMPTS, _SECONDS_BETWEEN_ATTEMPTS = 3, 1.0
_NAME = re.compile(r"step_(\d+)\.pt")


def save(folder: Path, state: dict[str, Any], step: int, keep: int) -> Path:
    """As :func:`write`, for those who cannot continue without it.

    Raises:
        UserError: the folder cannot be written; earlier checkpoints are untouched.
    """
    try:
        return write(folder, state, step, keep)
    except OSError as error:
        raise UserError(
            f"{folder}: the checkpoint of step {step} cannot be written: {error.strerror}; make room or choose another "
            "folder, then start again: the earlier checkpoints are intact"
        ) from error


def write(
    folder: Path,
    state: dict[str, Any],
    step: int,
    keep: int,
    before_naming: Callable[[], None] = lambda: None,
    before_removing: Callable[[Path], None] = lambda path: None,
) -> Path:
    """Write ``folder/step_<step>.pt``, point ``last.pt`` at it and remove all but the newest ``keep``.

    Args:
        folder: made when missing.
        state: tensors, numbers, strings, and dicts and lists of these.
        step: steps done.
        keep: checkpoints kept, this one included.
        before_naming: called when the file is whole and verified, before it gets its name.
        before_removing: called with the file under its name, before older ones are removed.

    Raises:
        OSError: as the file system, ``before_naming`` or ``before_removing`` says; earlier checkpoints are untouched.
    """
    path = path_of(folder, step)

    def content(file: BinaryIO) -> None:
        write_content(file, state, step)

    def check(temporary: Path) -> None:
        verify(temporary)
        before_naming()

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, check)
    _point_last_at(path)
    before_removing(path)
    for unneeded in (*by_age(folder)[keep:], *folder.glob(".*.tmp")):
        unneeded.unlink(missing_ok=True)
    return path


def _point_last_at(path: Path) -> None:
    """A convenience, by which no save fails: a link of either kind, and nothing where a file system has neither."""
    link, last = path.with_name(".last.tmp"), path.with_name(LAST)
    try:
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(path.name)
        except OSError:
            link.hardlink_to(path)
        link.replace(last)
    except OSError as error:
        with suppress(OSError):
            last.unlink(missing_ok=True)  # of an older checkpoint
        _warn_of(last, error.strerror)


@cache  # once, not at every save
def _warn_of(last: Path, reason: str) -> None:
    log.warning("%s cannot be made: %s; the newest checkpoint is the last step_*.pt beside it", last, reason)


def write_content(file: BinaryIO, state: dict[str, Any], step: int) -> None:
    """The bytes of the checkpoint of ``step``.

    Raises:
        OSError: as the file system says.
    """
    write_with_checksum(file, {"format": FORMAT, **state, "step": step})


def path_of(folder: Path, step: int) -> Path:
    """The file of the checkpoint of ``step``."""
    return folder / f"step_{step:09d}.pt"


def step_in_name(path: Path) -> int:
    """The step that a name of :func:`path_of` says."""
    found = _NAME.match(path.name)
    assert found
    return int(found[1])


def by_age(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first by the steps in their names; [] when it is not there.

    Raises:
        UserError: the folder cannot be listed: a run would begin anew beside its checkpoints.
    """
    return sorted(named(folder, _NAME), key=lambda path: (step_in_name(path), path.name), reverse=True)


def named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The files of a folder with such names; as :func:`by_age`."""
    try:
        names = os.listdir(folder)  # not Path.glob, which takes a folder that it cannot list for an empty one
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise cannot_be_read(folder, error, "the checkpoints") from error
    return [folder / name for name in names if pattern.fullmatch(name)]


def is_checkpoint(path: Path) -> bool:
    """Whether a file ends as :func:`save` ends files, intact or not; False when it is not there.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < COMMENT_BYTES:
                return False
            file.seek(-COMMENT_BYTES, os.SEEK_END)
            return file.read(len(MARK)) == MARK
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_be_read(path, error) from error


def load(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, on the CPU. Only data is read, never code.

    Raises:
        DamagedCheckpointError: checksum or contents are wrong.
        FileNotFoundError: it is not there.
        UserError: it cannot be read, several times over; or it was written by a newer version of this project.
    """
    content = _read(path)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parsers meet
        if is_of_memory(error):
            raise _too_little_memory(path) from error
        if code := code_in_file(error):
            raise DamagedCheckpointError(f"holds code beside its data ({code}), which is never run") from error
        if isinstance(error, pickle.UnpicklingError):  # torch's words end with the advice to run what is in it
            raise DamagedCheckpointError("cannot be read: its parts are not those of a checkpoint") from error
        raise DamagedCheckpointError(f"cannot be read: {first_line(error)}") from error
    if not isinstance(state, dict) or type(state.get("format")) is not int or type(state.get("step")) is not int:
        raise DamagedCheckpointError("not a checkpoint of simclr_dist")
    if state["format"] > FORMAT:
        raise UserError(f"{path}: written by a newer simclr_dist (format {state['format']}); update to read it")
    return state


def load_shared(path: Path) -> dict[str, Any]:
    """As :func:`load`, of a file that rank 0 has just found intact.

    Raises:
        UserError: this process finds something else there.
    """
    try:
        return load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: is not there; is the run folder the same for all processes?") from error
    except DamagedCheckpointError as error:
        raise UserError(f"{path}: {error}; is the run folder the same for all processes?") from error


def _read(path: Path) -> bytes:
    """The checked contents; a read that fails is tried again."""
    for attempt in range(_ATTEMPTS):
        try:
            return checked_bytes(path)
        except FileNotFoundError:
            raise
        except MemoryError as error:
            raise _too_little_memory(path) from error
        except OSError as error:
            if attempt + 1 == _ATTEMPTS:
                raise cannot_be_read(path, error, "the checkpoint") from error
            time.sleep(_SECONDS_BETWEEN_ATTEMPTS)
    raise AssertionError


def _too_little_memory(path: Path) -> UserError:
    return UserError(f"{path}: not enough memory to read it; the checkpoint is left as it is: give the job more")
