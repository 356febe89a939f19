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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from simclr_dist.errors import UserError, code_in_file, first_line
from simclr_dist.run.checksum import COMMENT_BYTES, MARK, checked_bytes, verify, write_with_checksum
from simclr_dist.run.checksum import DamagedCheckpointError as DamagedCheckpointError
from simclr_dist.storage.atomic import write_atomically

FORMAT = 1
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
    folder: Path, state: dict[str, Any], step: int, keep: int, before_naming: Callable[[], None] = lambda: None
) -> Path:
    """Write ``folder/step_<step>.pt``, point ``last.pt`` at it and remove all but the newest ``keep``.

    Args:
        folder: made when missing.
        state: tensors, numbers, strings, and dicts and lists of these.
        step: steps done.
        keep: checkpoints kept, this one included.
        before_naming: called when the file is whole and verified, before it gets its name.

    Raises:
        OSError: as the file system or ``before_naming`` says; earlier checkpoints are untouched.
    """
    path = path_of(folder, step)

    def content(file: BinaryIO) -> None:
        write_content(file, state, step)

    def check(temporary: Path) -> None:
        verify(temporary)
        before_naming()

    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content, check)
    link = folder / ".last.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(path.name)
    link.replace(folder / "last.pt")
    for unneeded in (*by_age(folder)[keep:], *folder.glob(".*.tmp")):
        unneeded.unlink(missing_ok=True)
    return path


def write_content(file: BinaryIO, state: dict[str, Any], step: int) -> None:
    """The bytes of the checkpoint of ``step``.

    Raises:
        OSError: as the file system says.
    """
    write_with_checksum(file, {"format": FORMAT, **state, "step": step})


def path_of(folder: Path, step: int) -> Path:
    """The file of the checkpoint of ``step``."""
    return folder / f"step_{step:09d}.pt"


def by_age(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted((path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def newest_intact(folder: Path) -> tuple[Path | None, list[str]]:
    """As :func:`load_newest`, without the state."""
    path, _, complaints = load_newest(folder)
    return path, complaints


def load_newest(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """The newest checkpoint that is what was written (None: there is none), its state, why newer ones were passed over.

    When an older one is intact, the damaged ones are renamed to ``*.damaged``: the run will write their steps again.

    Raises:
        UserError: the newest was written by a newer version of this project.
    """
    damaged = []
    for path in by_age(folder):
        try:
            state = load(path)
        except DamagedCheckpointError as error:
            damaged.append((path, f"{path}: {error}"))
            continue
        for other, _ in damaged:
            with suppress(OSError):  # a folder that may only be read
                other.replace(other.with_name(f"{other.name}.damaged"))
        return path, state, [complaint for _, complaint in damaged]
    return None, {}, [complaint for _, complaint in damaged]


def is_checkpoint(path: Path) -> bool:
    """Whether a file ends as :func:`save` ends files, intact or not."""
    try:
        with path.open("rb") as file:
            file.seek(-COMMENT_BYTES, os.SEEK_END)
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


def load(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, on the CPU. Only data is read, never code.

    Raises:
        DamagedCheckpointError: checksum or contents are wrong.
        UserError: written by a newer version of this project.
    """
    content = checked_bytes(path)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parsers meet
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
    except DamagedCheckpointError as error:
        raise UserError(f"{path}: {error}; is the run folder the same for all processes?") from error
