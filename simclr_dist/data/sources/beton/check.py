"""Is a .beton file what was written, and the first trust in a file that another writer made."""

from pathlib import Path

from simclr_dist.data.sources.beton.format import Table, read_table, refuse_odd_images, refused
from simclr_dist.data.sources.beton.sidecar import (
    BLOCK_BYTES,
    Sidecar,
    block_digest,
    describe,
    encode_sidecar,
    load_sidecar,
    path_of,
)
from simclr_dist.errors import UserError
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.terminal import typed

QUICK_BYTES = 256 << 20
"""Files up to this size are read whole when they are opened."""


def verify(path: Path, table: Table, sidecar: Sidecar, *, full: bool = False) -> None:
    """Refuse a file that is not the sidecar's: size, table, and blocks: all of a small or with ``full`` of any file,
    else the first and the last one, as damage in between is met when its image is read.

    Raises:
        UserError: naming what differs.
    """
    if table.file_bytes != sidecar.file_bytes:
        raise refused(path, f"{table.file_bytes} bytes, but {sidecar.file_bytes} were written: cut off, or another's")
    if table.sha256 != sidecar.table_sha256 or len(table) != len(sidecar.crcs):
        raise refused(path, "its table of images is not the one that was written: damaged, or another file's sidecar")
    labels = table.labels
    if sidecar.classes and labels is not None and not (labels.min() >= 0 and labels.max() < len(sidecar.classes)):
        raise refused(path, f"labels {labels.min()} to {labels.max()}, but {len(sidecar.classes)} names of classes")
    refuse_odd_images(path, table)
    count = len(sidecar.blocks)
    numbers = range(count) if full or table.file_bytes <= QUICK_BYTES else (0, count - 1)
    try:
        with path.open("rb") as file:
            for number in numbers:
                if block_digest(file.fileno(), number) != sidecar.blocks[number]:
                    megabytes = number * (BLOCK_BYTES >> 20)
                    raise refused(path, f"damaged after it was written, somewhere behind its first {megabytes} MiB")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check the disk") from error


def check_file(path: Path, *, full: bool = False) -> tuple[Table, Sidecar]:
    """A file's table and sidecar, checked against each other as :func:`verify` says.

    Raises:
        UserError: one of them is missing or damaged, or they do not belong together.
    """
    sidecar = load_sidecar(path)
    table = read_table(path)
    verify(path, table, sidecar, full=full)
    return table, sidecar


def seal_file(path: Path) -> Sidecar:
    """Write the sidecar of a file that has none, one of ffcv's own writer, say, after checking its structure.

    Raises:
        UserError: it has one, or is no whole .beton file.
    """
    if path_of(path).exists():
        raise UserError(f"{path}: has a sidecar; check it with: {typed('data', 'check', '--full', path)}")
    table = read_table(path)
    labels = table.labels
    # Numbers are their own names.
    named = labels is not None and labels.min() == 0 and labels.max() < len(table)
    classes = [str(number) for number in range(int(labels.max()) + 1)] if labels is not None and named else []
    sidecar = describe(path, table, classes, {"by": "another writer, sealed as it was found"})
    try:
        write_atomically(path_of(path), encode_sidecar(sidecar))
    except OSError as error:
        raise UserError(
            f"{path_of(path)}: cannot be written: {error.strerror}; make room, or check the folder"
        ) from error
    return sidecar
