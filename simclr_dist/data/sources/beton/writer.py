"""Writing .beton files: encoded by several processes, written by one in the order of the images, all or nothing."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.beton.encode import Encoded
from simclr_dist.data.sources.beton.encoding import Encoding
from simclr_dist.data.sources.beton.format import (
    ALLOCATION,
    METADATA,
    NO_LABEL,
    PAGE_BYTES,
    head,
    payloads_start,
    read_table,
)
from simclr_dist.data.sources.beton.parallel import encode_in_order
from simclr_dist.data.sources.beton.sidecar import Sidecar, describe, encode_sidecar, path_of
from simclr_dist.errors import UserError, first_line
from simclr_dist.storage.atomic import flush_folder, write_atomically
from simclr_dist.storage.flocks import alone


class Written(NamedTuple):
    """What came of it."""

    sidecar: Sidecar
    left_out: list[str]
    """Name and reason of each broken image."""


def write_beton(
    source: ImageSource,
    out: Path,
    encoding: Encoding,
    *,
    workers: int = 0,
    max_broken_share: float | None = None,
    note: dict[str, Any] | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Written:
    """Write a source's images and labels into ``out``, and its sidecar beside it.

    The bytes depend on the source and the encoding, not on the number of workers. They are written under another
    name in the same folder, flushed, read back, compared and renamed: ``out`` is whole or not there.

    Args:
        source: the images.
        out: a file that does not exist.
        encoding: how images are stored.
        workers: processes that read and encode; 0: none but this one.
        max_broken_share: share of the images that may be left out because they are broken; None: refuse the first.
        note: what else the sidecar shall say of how the file was written.
        progress: called with the number of images each time that some are done.

    Raises:
        UserError: ``out`` exists or cannot be written, an image is broken (or too many are). Nothing is left behind.
    """
    _refuse_existing(out)
    temporary = Path(out.parent, f".{out.name}.tmp")
    left_out: list[str] = []
    try:
        with (
            # A second writer of ``out`` would write into the temporary file too.
            alone(temporary, f"{out}: another process is writing it; wait for it, or end it") as descriptor,
            _all_or_nothing(out),
            open(descriptor, "r+b", closefd=False) as file,
            closing(encode_in_order(source, encoding, workers)) as images,
        ):
            file.truncate(0)
            crcs = _write(source, file, images, max_broken_share, left_out, progress)
            file.flush()
            os.fsync(file.fileno())
            written = {**(note or {}), **encoding.as_dict(), "left_out": left_out}
            sidecar = describe(temporary, read_table(temporary), source.classes, written)
            if not np.array_equal(sidecar.crcs, crcs):
                raise UserError(f"{out}: what was written is not what is read back; check the disk and the memory")
            # The sidecar first: a .beton file is then never without one.
            write_atomically(path_of(out), encode_sidecar(sidecar))
            temporary.replace(out)
            flush_folder(out.parent)
    except OSError as error:
        raise _unwritable(out, error) from error
    return Written(sidecar, left_out)


def _refuse_existing(out: Path) -> None:
    for path in (out, path_of(out)):
        if os.path.lexists(path):
            raise UserError(f"{path}: is there already; give another name, or remove it first")


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[None]:
    """What another process has finished since it was looked for is refused, and no sidecar is left without its file."""
    _refuse_existing(out)
    try:
        yield
    except BaseException:  # Ctrl-C too
        if not out.exists():
            path_of(out).unlink(missing_ok=True)
        raise


def _unwritable(out: Path, error: OSError) -> UserError:
    reason = error.strerror or first_line(error)
    return UserError(f"{out}: cannot be written: {reason}; nothing is left of it: make room, or choose another folder")


def _write(
    source: ImageSource,
    file: BinaryIO,
    images: Iterator[Encoded | str],
    max_broken_share: float | None,
    left_out: list[str],
    progress: Callable[[int], None],
) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The whole file; the CRC-32 of each payload that was meant."""
    metadata = np.zeros(len(source), dtype=METADATA)
    allocations = np.zeros(len(source), dtype=ALLOCATION)
    crcs = np.zeros(len(source), dtype=np.uint32)
    count, end = 0, payloads_start(len(source))
    for sample, image in enumerate(images):
        progress(1)
        if isinstance(image, str):
            left_out.append(image)
            _refuse_broken(left_out, len(source), max_broken_share)
            continue
        size = len(image.payload)
        if end % PAGE_BYTES + size > PAGE_BYTES:
            end = (end // PAGE_BYTES + 1) * PAGE_BYTES
        file.seek(end)
        file.write(image.payload)
        label = NO_LABEL if source.labels is None else source.labels[sample]
        metadata[count] = ((image.mode, image.width, image.height, end), label)
        allocations[count] = (count, end, size)
        crcs[count] = image.crc
        end += size
        count += 1
    if not count:
        raise UserError("no image could be read; nothing was written")
    file.write(allocations[:count].tobytes())
    file.seek(0)
    file.write(head(metadata[:count], end, PAGE_BYTES))
    return crcs[:count]


def _refuse_broken(left_out: list[str], images: int, max_share: float | None) -> None:
    if max_share is None:
        raise UserError(f"broken image {left_out[0]}; mend or remove it, or leave broken images out with --skip-broken")
    if len(left_out) > max_share * images:
        raise UserError(
            f"{len(left_out)} of {images} images are broken, more than machine.max_broken_image_share ({max_share:g}), "
            f"the last one {left_out[-1]}; mend or remove them, or raise the share"
        )
