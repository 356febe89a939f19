"""Features as rows: one array, or blocks that stay in their files and are read as they are asked for."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_dist.errors import UserError
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.storage.temporary import remove_leftovers

Features = NDArray[np.float32]
_ROWS = 16384
_ELSEWHERE = "Else keep them elsewhere (features, neighbours: --blocks) or not at all (evaluate: --no-cache)"


class FeatureBlocks:
    """A feature matrix in several blocks, one after the other, that stay in their files.

    A block is whatever knows its ``len`` and ``shape`` and gives the rows of an array of numbers. Rows that are asked
    for, by a slice or an array of numbers, are copied; ``np.asarray`` copies all.
    """

    def __init__(self, blocks: Sequence[Any], rows: int) -> None:
        """Of the last block rows beyond ``rows`` are left out."""
        self._blocks = blocks
        self._starts = np.cumsum([0, *map(len, self._blocks)])
        self._rows = rows
        self.shape: tuple[int, ...] = (rows, *self._blocks[0].shape[1:])

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Features:
        if isinstance(rows, slice):
            rows = np.arange(len(self))[rows]
        found = np.empty((len(rows), *self.shape[1:]), dtype=np.float32)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        block_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(block_of):
            positions = np.flatnonzero(block_of == number)
            found[positions] = self._blocks[number][rows[positions] - self._starts[number]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.float32, copy=False)


FeatureMatrix = Features | FeatureBlocks
"""Features by slice or array of numbers, ``len`` and ``shape``; shape (images, d)."""


def not_finite(matrix: FeatureMatrix) -> list[int]:
    """Numbers of the rows with a feature that is not finite."""
    found: list[int] = []
    for start in range(0, len(matrix), _ROWS):
        finite = np.isfinite(matrix[start : start + _ROWS]).reshape(min(_ROWS, len(matrix) - start), -1).all(axis=1)
        found += (start + np.flatnonzero(~finite)).tolist()
    return found


def mapped_blocks(files: Sequence[Path], rows: int) -> FeatureBlocks:
    """Files of numpy's format, mapped into memory: all processes of a node share the system's one copy of a file's
    pages, and pages that are not in use cost nothing.

    Raises:
        UserError: a file is not there.
    """
    try:
        return FeatureBlocks([np.load(file, mmap_mode="r") for file in files], rows)
    except OSError as error:
        raise UserError(
            f"{error.filename}: kept features cannot be read: {error.strerror}; is the folder the same for all "
            f"processes? {_ELSEWHERE}"
        ) from error


def block_file(folder: Path, number: int) -> Path:
    """Where block ``number`` is kept."""
    return folder / f"block_{number:06d}.npy"


def kept_blocks(folder: Path, blocks: int) -> list[int]:
    """Which of ``blocks`` blocks are there, and as long as they say.

    Raises:
        UserError: one cannot be read now.
    """
    remove_leftovers(folder)
    return [number for number in range(blocks) if _is_whole(block_file(folder, number))]


def _is_whole(file: Path) -> bool:
    try:
        np.load(file, mmap_mode="r")
    except FileNotFoundError:
        return False
    except OSError as error:
        raise cannot_be_read(file, error, "kept features") from error
    except (ValueError, EOFError):  # cut off, or something else: computed again and written over
        return False
    return True


def keep_block(folder: Path, number: int, rows: Features) -> None:
    """Write a block, whole or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    buffer = io.BytesIO()
    np.save(buffer, rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(block_file(folder, number), buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"{folder}: features cannot be kept there: {error.strerror}; make room there. {_ELSEWHERE}"
        ) from error
