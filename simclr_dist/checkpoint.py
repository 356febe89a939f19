"""Checkpoints: one file for all processes, written atomically, with a checksum, never half there.

The file is what ``torch.save`` writes, so ``torch.load`` reads it; its SHA-256 stands in the comment that a zip file
may end with. Protocol of a save: a temporary file in the same folder, flushed to the disk, renamed over the final name,
the folder flushed. Whoever is killed at any point leaves the old checkpoints and perhaps a temporary file, which the
next save removes.
"""

import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from simclr_dist.errors import UserError, first_line

FORMAT = 1
_MARK = b"simclr_dist sha256:"
_COMMENT_BYTES = len(_MARK) + 64
_NAME = re.compile(r"step_(\d+)\.pt")
_PROCESS = secrets.token_hex(4)
"""Stands in the names of temporary files: two hosts must not write into the same one."""


class DamagedCheckpointError(Exception):
    """The file is not what was written; the message says how."""


def save(folder: Path, state: dict[str, Any], step: int, keep: int, check: Callable[[], None] = lambda: None) -> Path:
    """Write ``folder/step_<step>.pt``, point ``last.pt`` at it and remove all but the newest ``keep``.

    Args:
        folder: made when missing.
        state: tensors, numbers, strings, and dicts and lists of these.
        step: steps done.
        keep: checkpoints kept, this one included.
        check: as :func:`write_atomically` takes it.

    Raises:
        UserError: the folder cannot be written; earlier checkpoints are untouched.
    """
    path = path_of(folder, step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _with_checksum({"format": FORMAT, **state, "step": step}), check)
        link = folder / ".last.tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        link.replace(folder / "last.pt")
    except OSError as error:
        raise UserError(
            f"machine.run_dir: the checkpoint of step {step} cannot be written to {folder}: {error.strerror}; "
            "make room or choose another folder, then start again: the earlier checkpoints are intact"
        ) from error
    for old in _by_age(folder)[keep:]:
        old.unlink(missing_ok=True)
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    return path


def path_of(folder: Path, step: int) -> Path:
    """The file of the checkpoint of ``step``."""
    return folder / f"step_{step:09d}.pt"


def newest_intact(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose checksum holds (None: there is none), and why newer ones were passed over.

    When an older one is intact, the damaged ones are renamed to ``*.damaged``: the run will write their steps again.
    """
    damaged = []
    for path in _by_age(folder):
        try:
            _checked_bytes(path)
        except DamagedCheckpointError as error:
            damaged.append((path, f"{path}: {error}"))
            continue
        for other, _ in damaged:
            other.replace(other.with_name(f"{other.name}.damaged"))
        return path, [complaint for _, complaint in damaged]
    return None, [complaint for _, complaint in damaged]


def is_checkpoint(path: Path) -> bool:
    """Whether a file ends as :func:`save` ends files, intact or not."""
    try:
        with path.open("rb") as file:
            file.seek(-_COMMENT_BYTES, os.SEEK_END)
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return False


def load(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, on the CPU. Only data is read, never code.

    Raises:
        DamagedCheckpointError: checksum or contents are wrong.
        UserError: written by a newer version of this project.
    """
    content = _checked_bytes(path)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parsers meet
        raise DamagedCheckpointError(f"cannot be read: {first_line(error)}") from error
    if not isinstance(state, dict) or "format" not in state:
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


def write_atomically(path: Path, content: bytes, check: Callable[[], None] = lambda: None) -> None:
    """Either the whole content stands under ``path`` and on the disk, or what stood there before.

    ``check`` is called when only the renaming is left to do; what it raises leaves everything as it was.

    Raises:
        OSError: as the file system says.
    """
    temporary = path.with_name(f".{path.name}.{_PROCESS}_{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        check()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Bring a folder's new names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _by_age(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted((path for path in folder.glob("step_*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def _with_checksum(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    # A zip file ends with the length of its comment and the comment.
    content = content[:-2] + _COMMENT_BYTES.to_bytes(2, "little")
    return content + _MARK + hashlib.sha256(content).hexdigest().encode()


def _checked_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedCheckpointError(f"cannot be read: {error.strerror}") from error
    body, comment = content[:-_COMMENT_BYTES], content[-_COMMENT_BYTES:]
    if not comment.startswith(_MARK):
        raise DamagedCheckpointError("no checksum at its end: cut off, or not a checkpoint of simclr_dist")
    if hashlib.sha256(body).hexdigest().encode() != comment[len(_MARK) :]:
        raise DamagedCheckpointError("its checksum does not match its contents")
    return content
