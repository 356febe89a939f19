"""Images in a .beton file, every payload checked against its CRC-32 when it is read."""

import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_dist.data.sources.base import BrokenImageError
from simclr_dist.data.sources.beton.check import check_file
from simclr_dist.data.sources.beton.format import JPEG, refused
from simclr_dist.data.sources.decoding import decode_jpeg
from simclr_dist.data.sources.orientation import jpeg_orientation, turned
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.errors import UserError

_SPLIT_FILES = ("pretrain.beton", "train.beton", "test.beton")


def open_beton(path: Path, split: str, rule: PixelRule, reader: "type[BetonSource] | None" = None) -> "BetonSource":
    """The file of a split: ``path`` itself, or SPLIT.beton in the folder ``path`` or beside the file ``path``.

    ``reader`` is what opens it, BetonSource where none is given.

    Raises:
        UserError: there is no such file, or it is refused.
    """
    reader = reader or BetonSource
    if path.is_file() and split == "pretrain":
        return reader(path, rule)
    if not path.is_dir() and not path.is_file():
        raise UserError(f"recipe.data.path: {path} is not a .beton file, nor a folder of them; give one")
    folder = path if path.is_dir() else path.parent
    names = ("pretrain.beton", "train.beton") if split == "pretrain" else (f"{split}.beton",)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None or (path.is_file() and path.name not in _SPLIT_FILES):
        raise UserError(
            f"recipe.data.path: {path} {'is a single file' if path.is_file() else f'has no {names[-1]}'}; split "
            f"'{split}' is read from {' or '.join(names)} in a folder; write it with: simclr-dist data write CONFIG "
            f"{folder / names[-1]} --split {names[-1].removesuffix('.beton')}"
        )
    return reader(found, rule)


class BetonSource:
    """Images in a .beton file with its sidecar.

    Payloads are read with pread: all processes share the system's cache of the file as with a memory map, but a file
    that is cut or a disk that fails while it is read is an error, not a signal that kills the process.
    """

    def __init__(self, path: Path, rule: PixelRule | None = None) -> None:
        """Open and check a file.

        Raises:
            UserError: it or its sidecar is missing, damaged, or they do not belong together; or it was written by
                another rule for its pixels.
        """
        table, sidecar = check_file(path)
        self.rule = rule or PixelRule()
        _refuse_other_rule(path, sidecar.facts["written"], self.rule)
        self.path, self.classes, self.labels = path, sidecar.classes, table.labels
        self.facts = sidecar.facts
        self.table, self.crcs = table, sidecar.crcs
        self._fingerprint = sidecar.content_sha256()
        self._file: BinaryIO | None = None

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def name(self, sample: int) -> str:
        return f"image {sample} of {self.path}"

    def payload(self, sample: int) -> NDArray[np.uint8]:
        """The bytes of an image as they stand in the file, shape (bytes,).

        Raises:
            UserError: they are not those that were written, or cannot be read.
        """
        if self._file is None:
            self._file = self._opened()
        payload = np.empty(self.table.sizes[sample], dtype=np.uint8)
        try:
            count = os.preadv(self._file.fileno(), [payload.data], int(self.table.pointers[sample]))
        except OSError as error:
            raise UserError(f"{self.name(sample)}: cannot be read: {error.strerror}; check the disk") from error
        if count != len(payload) or zlib.crc32(payload.data) != self.crcs[sample]:
            self.refuse_damaged(sample)
        return payload

    def read(self, sample: int) -> Tensor:
        """The image as uint8 of shape (3, height, width), a view of (height, width, 3).

        Raises:
            BrokenImageError: it was no image when it was written (files of ffcv's own writer).
            UserError: it was damaged later.
        """
        table, payload = self.table, self.payload(sample)
        shape = (int(table.heights[sample]), int(table.widths[sample]), 3)
        pixels = self._decoded(payload, shape) if table.modes[sample] == JPEG else payload.reshape(shape)
        if pixels is None or pixels.shape != shape:
            raise BrokenImageError(f"{self.name(sample)}: no JPEG of {shape[1]} x {shape[0]} pixels")
        if table.modes[sample] == JPEG and self.rule.apply_orientation:
            pixels = turned(pixels, jpeg_orientation(payload))
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def fingerprint(self) -> str:
        return self._fingerprint

    def refuse_damaged(self, sample: int) -> NoReturn:
        """End the run for a payload that is not the one that was written.

        Raises:
            UserError: always.
        """
        raise refused(self.path, f"image {sample} was damaged after the file was written")

    def _decoded(self, payload: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.uint8] | None:
        """The pixels of a JPEG; None, or of another shape, where it is none of this ``shape``."""
        del shape
        return decode_jpeg(payload)

    def _opened(self) -> BinaryIO:
        try:
            file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be opened again: {error.strerror}; was it moved?") from error
        if os.fstat(file.fileno()).st_size != self.table.file_bytes:
            raise refused(self.path, "another file has taken its place since it was checked")
        return file


def _refuse_other_rule(path: Path, written: dict[str, Any], rule: PixelRule) -> None:
    """Transparency is laid on its ground, and most images are turned, when they are written: not to be undone."""
    own = rule.as_dict()
    if noted := {key: written[key] for key in own if written.get(key, own[key]) != own[key]}:
        keys = " ".join(f"recipe.data.{key}={str(value).lower()}" for key, value in noted.items())
        raise UserError(f"{path}: was written with {keys}; give that, or write it again with: simclr-dist data write")
