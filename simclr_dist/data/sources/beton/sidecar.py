"""The sidecar of a .beton file, FILE.json: checksums, names of the classes, and how the file was written.

ffcv's format has no checksum: a cut or damaged file would be read as wrong pixels. The sidecar holds the SHA-256 of
each block of the file, and of all but its payloads, and the CRC-32 of each payload, so that every read is checked.
"""

import base64
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_dist.data.sources.beton.format import JPEG, Table, refuse_odd_images, refused
from simclr_dist.errors import UserError, first_line
from simclr_dist.storage.sealed_json import read_sealed, sealed
from simclr_dist.terminal import typed

VERSION = 1
BLOCK_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_DIGEST_BYTES = 32
_FORM: dict[str, type] = {
    "format": int, "file_bytes": int, "images": int, "labelled": bool, "jpegs": int, "widths": list, "heights": list,
    "written": dict, "classes": list, "table_sha256": str, "blocks_sha256": str, "crc32": str,
}  # fmt: skip
"""Key -> type of its value."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What is known of a .beton file."""

    file_bytes: int
    table_sha256: str
    blocks: list[bytes]
    """SHA-256 of each block of BLOCK_BYTES, the last one shorter."""
    crcs: NDArray[np.uint32]
    """CRC-32 (zlib) of each payload."""
    classes: list[str]
    facts: dict[str, Any]
    """For people: number of images, smallest and largest sides, how it was written."""

    def content_sha256(self) -> str:
        """Of the whole file, by its blocks."""
        return hashlib.sha256(b"".join(self.blocks)).hexdigest()


def path_of(beton: Path) -> Path:
    """Where the sidecar of a file stands."""
    return Path(f"{beton}.json")


def describe(path: Path, table: Table, classes: list[str], written: dict[str, Any]) -> Sidecar:
    """The sidecar of a file as it is now, read once from its beginning to its end.

    Raises:
        UserError: a payload is no JPEG, or not the raw pixels that its metadata says.
        OSError: as the file system says.
    """
    refuse_odd_images(path, table)
    blocks, crcs = [], np.zeros(len(table), dtype=np.uint32)
    order = np.argsort(table.pointers, kind="stable")
    # Block by block, so that a payload is still in the system's cache when its turn comes.
    ends = np.searchsorted(table.pointers[order], np.arange(1, -(-table.file_bytes // BLOCK_BYTES) + 1) * BLOCK_BYTES)
    with path.open("rb") as file:
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            blocks.append(block_digest(file.fileno(), number))
            for sample in order[start:end]:
                payload = os.pread(file.fileno(), int(table.sizes[sample]), int(table.pointers[sample]))
                if table.modes[sample] == JPEG and payload[:2] != b"\xff\xd8":
                    raise refused(path, f"damaged: image {sample} is no JPEG")
                crcs[sample] = zlib.crc32(payload)
    widths, heights = table.widths, table.heights
    facts = {
        "images": len(table),
        "labelled": table.labels is not None,
        "jpegs": int((table.modes == JPEG).sum()),
        "widths": [int(widths.min()), int(widths.max())],
        "heights": [int(heights.min()), int(heights.max())],
        "written": written,
    }
    return Sidecar(
        file_bytes=table.file_bytes, table_sha256=table.sha256, blocks=blocks, crcs=crcs, classes=classes, facts=facts
    )


def encode_sidecar(sidecar: Sidecar) -> bytes:
    """The content of the sidecar's file: JSON, what people read first, a checksum of all of it last."""
    content = {
        "format": VERSION,
        "file_bytes": sidecar.file_bytes,
        **sidecar.facts,
        "classes": sidecar.classes,
        "table_sha256": sidecar.table_sha256,
        "blocks_sha256": _text(b"".join(sidecar.blocks)),
        "crc32": _text(sidecar.crcs.astype("<u4").tobytes()),
    }
    return sealed(content)


def load_sidecar(beton: Path) -> Sidecar:
    """The sidecar of a file.

    Raises:
        UserError: it is missing, damaged, or of a newer version.
    """
    path = path_of(beton)
    try:
        content = read_sealed(path, VERSION)
        _refuse_form(content)
        digests = base64.b64decode(content.pop("blocks_sha256"))
        return Sidecar(
            file_bytes=content.pop("file_bytes"),
            table_sha256=content.pop("table_sha256"),
            blocks=[digests[at : at + _DIGEST_BYTES] for at in range(0, len(digests), _DIGEST_BYTES)],
            crcs=np.frombuffer(base64.b64decode(content.pop("crc32")), dtype="<u4").astype(np.uint32),
            classes=content.pop("classes"),
            facts={key: value for key, value in content.items() if key != "format"},
        )
    except FileNotFoundError as error:
        if not beton.is_file():
            raise UserError(f"{beton}: no such file; give a .beton file") from error
        raise UserError(
            f"{beton}: has no sidecar {path.name}; bring it, or trust the file with: {typed('data', 'seal', beton)}"
        ) from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check its permissions") from error
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: a damaged sidecar ({first_line(error)}); bring it again, or write the file again with: "
            "simclr-dist data write"
        ) from error


def _refuse_form(content: dict[str, Any]) -> None:
    """Raise a ValueError or KeyError for what no version of this project writes: a checksum anyone can compute."""
    for key, kind in _FORM.items():
        if type(content[key]) is not kind:
            raise ValueError(f"its {key} is {type(content[key]).__name__}, not {kind.__name__}")
    if not all(isinstance(name, str) for name in content["classes"]):
        raise ValueError("its classes are no list of names")
    for key in ("widths", "heights"):
        if [type(side) for side in content[key]] != [int, int]:
            raise ValueError(f"its {key} are not two numbers")
    blocks = max(0, -(-content["file_bytes"] // BLOCK_BYTES))
    for key, size in (("blocks_sha256", blocks * _DIGEST_BYTES), ("crc32", 4 * content["images"])):
        if len(base64.b64decode(content[key])) != size:
            raise ValueError(f"its {key} is not of {size} bytes")


def block_digest(file: int, number: int) -> bytes:
    """SHA-256 of a block of an open file, given by its descriptor."""
    digest, end = hashlib.sha256(), (number + 1) * BLOCK_BYTES
    for at in range(end - BLOCK_BYTES, end, _READ_BYTES):
        digest.update(os.pread(file, min(_READ_BYTES, end - at), at))
    return digest.digest()


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
