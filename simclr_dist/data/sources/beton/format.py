"""FFCV's .beton format, version 2: its records, and the checked table of a file's images.

    header | field descriptors | metadata, one record an image | payloads | allocation table, up to the end

Numbers are little-endian. A payload is found by its absolute pointer in the metadata, its length in the allocation
table; none crosses a multiple of the page size, as ffcv may read page by page.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_dist.errors import UserError, first_line

VERSION = 2
PAGE_BYTES = 1 << 23
MAX_SIDE = 65535
JPEG, RAW = 0, 1
NO_LABEL = -1

HEADER = np.dtype(
    [("version", "<u2"), ("fields", "<u2"), ("page_bytes", "<u4"), ("images", "<u8"), ("allocations", "<u8")]
)
FIELD = np.dtype([("type", "<u1"), ("name", "S16"), ("arguments", "V1024")])
ALLOCATION = np.dtype([("sample", "<u8"), ("pointer", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("pointer", "<u8")])
_POINTER_AND_SIZE = np.dtype([("pointer", "<u8"), ("size", "<u8")])
_INTEGER_TYPE, _IMAGE_TYPE = 1, 2
# ffcv's numbers of its fields: float, integer, image, bytes, array, JSON, tensor.
_FIELD_TYPES: dict[int, Any] = {
    0: "<f8",
    _INTEGER_TYPE: "<i8",
    _IMAGE_TYPE: IMAGE,
    3: _POINTER_AND_SIZE,
    4: "<u8",
    5: _POINTER_AND_SIZE,
    6: "<u8",
}


def metadata_type(types: list[int]) -> np.dtype[np.void]:
    """The record of one image in a file whose fields have these types."""
    return np.dtype([(f"f{place}", _FIELD_TYPES[number]) for place, number in enumerate(types)], align=True)


METADATA = metadata_type([_IMAGE_TYPE, _INTEGER_TYPE])
"""What this project writes: ``f0`` the image, ``f1`` its label."""


def payloads_start(images: int) -> int:
    """Where payloads may begin behind the metadata of so many images: at a page of the operating system."""
    return -(-(HEADER.itemsize + 2 * FIELD.itemsize + images * METADATA.itemsize) // 4096) * 4096


def head(metadata: NDArray[np.void], allocations: int, page_bytes: int) -> bytes:
    """All that stands before the payloads, the allocation table standing at ``allocations``."""
    header = np.array((VERSION, 2, page_bytes, len(metadata), allocations), dtype=HEADER)
    fields = np.zeros(2, dtype=FIELD)
    fields["type"], fields["name"] = [_IMAGE_TYPE, _INTEGER_TYPE], [b"image", b"label"]
    return header.tobytes() + fields.tobytes() + metadata.tobytes()


@dataclass(frozen=True, kw_only=True)
class Table:
    """Where the images of a file are, each array of shape (images,); every payload lies inside the file."""

    pointers: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Bytes of the payloads."""
    modes: NDArray[np.uint8]
    widths: NDArray[np.uint16]
    heights: NDArray[np.uint16]
    labels: NDArray[np.int64] | None
    file_bytes: int
    sha256: str
    """Of all but the payloads: header, descriptors, metadata and allocation table."""

    def __len__(self) -> int:
        return len(self.pointers)


def refused(path: Path, what: str) -> UserError:
    """The error for a file that is not what was written."""
    return UserError(f"{path}: {what}; write it again with: simclr-dist data write")


def refuse_odd_images(path: Path, table: Table) -> None:
    """Raise a UserError when an image is neither a JPEG nor raw, or its raw pixels are not those of its sides."""
    areas = 3 * table.widths.astype(np.int64) * table.heights
    if not np.isin(table.modes, (JPEG, RAW)).all() or (areas != table.sizes)[table.modes == RAW].any():
        raise refused(path, "damaged: the metadata has images of unknown mode or of another size than their payload")


def read_table(path: Path) -> Table:
    """The table of a file, its structure checked.

    Raises:
        UserError: it cannot be read, is no .beton file, is cut off, or points outside of itself.
    """
    try:
        with path.open("rb") as file:
            return _read_table(path, file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or first_line(error)}; check the path") from error


def _read_table(path: Path, file: Any, size: int) -> Table:
    if size < HEADER.itemsize:
        raise refused(path, f"no .beton file: {size} bytes are less than its header")
    start = file.read(HEADER.itemsize)
    header = np.frombuffer(start, dtype=HEADER)[0]
    version, fields, images, end = (int(header[name]) for name in ("version", "fields", "images", "allocations"))
    if version != VERSION:
        raise refused(path, f"no .beton file of version {VERSION}: its header says {version}")
    described = file.read(fields * FIELD.itemsize)
    types = np.frombuffer(described, dtype=FIELD, count=len(described) // FIELD.itemsize)["type"].tolist()
    if len(types) != fields or not set(types) <= set(_FIELD_TYPES):
        raise refused(path, f"{fields} fields of types {types[:8]}: cut off, damaged, or with fields of your own")
    if _IMAGE_TYPE not in types:
        raise UserError(f"{path}: has no field of images; give a file with an RGBImageField")
    record = metadata_type(types)
    metadata_end = HEADER.itemsize + len(described) + images * record.itemsize
    if not (images > 0 and metadata_end <= end < size and (size - end) % ALLOCATION.itemsize == 0):
        raise refused(path, f"cut off or damaged: {images} images, allocation table at byte {end}, {size} bytes in all")
    content = file.read(images * record.itemsize)
    file.seek(end)
    table = file.read()
    digest = hashlib.sha256(start + described + content + table).hexdigest()
    metadata, allocations = np.frombuffer(content, dtype=record), np.frombuffer(table, dtype=ALLOCATION)
    found = metadata[f"f{types.index(_IMAGE_TYPE)}"]
    labels = metadata[f"f{types.index(_INTEGER_TYPE)}"].copy() if _INTEGER_TYPE in types else None
    pointers = found["pointer"].copy()
    return Table(
        pointers=pointers.astype(np.int64),
        sizes=_sizes(path, pointers, allocations, metadata_end, end).astype(np.int64),
        modes=found["mode"].copy(),
        widths=found["width"].copy(),
        heights=found["height"].copy(),
        labels=None if labels is None or (labels == NO_LABEL).all() else labels,
        file_bytes=size,
        sha256=digest,
    )


def _sizes(
    path: Path, pointers: NDArray[np.uint64], table: NDArray[np.void], low: int, high: int
) -> NDArray[np.uint64]:
    """Lengths of the payloads at ``pointers``, each inside the bytes ``low`` to ``high``."""
    table = table[np.argsort(table["pointer"], kind="stable")]
    place = np.minimum(np.searchsorted(table["pointer"], pointers), len(table) - 1)
    sizes: NDArray[np.uint64] = table["size"][place]
    owned = (table["pointer"][place] == pointers) & (table["sample"][place] == np.arange(len(pointers)))
    # Compared without a sum, which could overflow.
    inside = (pointers >= low) & (pointers < high) & (sizes > 0) & (sizes <= high - np.minimum(pointers, high))
    if not (owned & inside).all():
        sample = int(np.argmin(owned & inside))
        raise refused(path, f"damaged: image {sample} has no payload inside the file")
    return sizes
