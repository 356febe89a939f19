"""Features in one file for other programs: Parquet or NumPy's npz, written and read a part at a time.

Both hold, in the order of the source and without broken images, ``name`` (npz: ``names``) and ``features`` (float32,
d numbers an image), with labels ``label`` (``labels``), and as JSON what made them: ``simclr_dist`` in the metadata of
the Parquet schema, ``metadata`` in the npz.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.whole import image_name
from simclr_dist.errors import UserError, first_line
from simclr_dist.evaluation.feature_blocks import FeatureBlocks, FeatureMatrix, Features
from simclr_dist.evaluation.source_features import SourceFeatures
from simclr_dist.evaluation.subsets import Indices
from simclr_dist.progress_bar import showing_progress
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.storage.temporary import remove_leftovers

KINDS = (".parquet", ".npz")
FORMAT = 1
_KEY = b"simclr_dist"
_GROUP_BYTES = 2**26
_LOCAL_HEADER_BYTES = 30


class _Part(NamedTuple):
    names: list[str]
    features: Features
    labels: Indices | None


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a name that cannot be written, before anything is computed.

    Raises:
        UserError: no kind of file that is known, a file that is there, a folder that is not, or no pyarrow.
    """
    if out.suffix not in KINDS:
        raise UserError(f"--out: {out}: give a name that ends with {' or '.join(KINDS)}")
    if out.is_dir() or (out.exists() and not overwrite):
        raise UserError(f"--out: {out} is there already; --overwrite replaces a file, or give another name")
    if not out.parent.is_dir():
        raise UserError(f"--out: {out.parent} is not a folder; make it first")
    if out.suffix == ".parquet":
        _pyarrow()


def write_features(
    out: Path, source: ImageSource, found: SourceFeatures, metadata: dict[str, Any], *, talks: bool = False
) -> None:
    """Write ``out`` whole or not at all. In memory is one part of some 64 MB; of Parquet that is a row group.

    Raises:
        UserError: it cannot be written.
    """
    remove_leftovers(out.parent)
    parts = _Parts(source, found)
    write = _write_parquet if out.suffix == ".parquet" else _write_npz
    described = json.dumps({"format": FORMAT, **metadata}, ensure_ascii=True)
    try:
        with showing_progress(parts.passes(out.suffix) * len(parts), label=f"writing {out.name}", active=talks) as said:
            write_atomically(out, lambda file: write(file, parts, described, said))
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror or error}; make room there") from error


def read_features(path: Path) -> tuple[dict[str, Any], FeatureMatrix]:
    """What was said of the features, and the features (n, d), which stay in the file.

    Raises:
        UserError: it cannot be read, or was not written by :func:`write_features`.
    """
    try:
        described, matrix = (_open_parquet if path.suffix == ".parquet" else _open_npz)(path)
        known = json.loads(described)
        if not isinstance(known, dict) or known["format"] > FORMAT:
            raise ValueError("it is of a newer version")
    except UserError:
        raise
    except OSError as error:
        if error.errno is None:  # pyarrow's, of contents
            raise _foreign(path, error) from error
        raise cannot_be_read(path, error) from error
    except Exception as error:  # what zipfile, numpy and pyarrow raise on files of other contents
        raise _foreign(path, error) from error
    return known, matrix


def _foreign(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: no file of `simclr-dist features`: {type(error).__name__}: {first_line(error)}")


class _Parts:
    """Names, features and labels of the images that could be read, in parts of some 64 MB."""

    def __init__(self, source: ImageSource, found: SourceFeatures) -> None:
        self._source, self._found = source, found
        self.shape = (len(found.samples), int(found.matrix.shape[1]))
        self._rows = max(1, _GROUP_BYTES // (4 * self.shape[1]))
        self.labelled = source.labels is not None

    def __len__(self) -> int:
        return self.shape[0]

    @staticmethod
    def passes(suffix: str) -> int:
        return 1 if suffix == ".parquet" else 2

    def names(self) -> Iterator[list[str]]:
        for start in range(0, len(self), self._rows):
            samples = self._found.samples[start : start + self._rows]
            yield [_text(image_name(self._source, int(sample))) for sample in samples]

    def features(self) -> Iterator[Features]:
        for start in range(0, len(self), self._rows):
            yield self._found.matrix[self._found.rows[start : start + self._rows]]

    def labels(self) -> Iterator[Indices]:
        assert self._source.labels is not None
        for start in range(0, len(self), self._rows):
            yield self._source.labels[self._found.samples[start : start + self._rows]]

    def __iter__(self) -> Iterator[_Part]:
        labels = self.labels() if self.labelled else None
        for names, features in zip(self.names(), self.features(), strict=True):
            yield _Part(names, features, next(labels) if labels else None)


def _text(name: str) -> str:
    """A file's name may hold any bytes; those that are no UTF-8 are spelt, as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _write_parquet(file: BinaryIO, parts: _Parts, described: str, progress: Callable[[int], None]) -> None:
    arrow = _pyarrow()
    columns = [("name", arrow.string()), ("features", arrow.list_(arrow.float32(), parts.shape[1]))]
    columns += [("label", arrow.int64())] if parts.labelled else []
    schema = arrow.schema(columns, metadata={_KEY: described.encode()})
    with arrow.parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for part in parts:
            flat = arrow.array(np.ascontiguousarray(part.features).reshape(-1))
            features = arrow.FixedSizeListArray.from_arrays(flat, parts.shape[1])
            arrays = [arrow.array(part.names, arrow.string()), features]
            arrays += [] if part.labels is None else [arrow.array(part.labels)]
            writer.write_table(arrow.table(arrays, schema=schema), row_group_size=len(part.names))
            progress(len(part.names))


def _write_npz(file: BinaryIO, parts: _Parts, described: str, progress: Callable[[int], None]) -> None:
    """As numpy's savez writes it, uncompressed, so that it can be mapped into memory."""
    width = 1
    for names in parts.names():
        width = max(width, *map(len, names))
        progress(len(names))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write_array(archive, "metadata", np.array(described).dtype, (), [np.array(described)])
        kind = np.dtype(f"<U{width}")
        _write_array(archive, "names", kind, parts.shape[:1], (np.array(names, dtype=kind) for names in parts.names()))
        if parts.labelled:
            _write_array(archive, "labels", np.dtype("<i8"), parts.shape[:1], parts.labels())
        _write_array(archive, "features", np.dtype("<f4"), parts.shape, _counted(parts.features(), progress))


def _counted(blocks: Iterator[Features], progress: Callable[[int], None]) -> Iterator[Features]:
    for block in blocks:
        yield block
        progress(len(block))


def _write_array(archive: zipfile.ZipFile, name: str, kind: np.dtype[Any], shape: tuple[int, ...], blocks: Any) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")  # with a time of its own no two files would be equal
    with archive.open(entry, "w", force_zip64=True) as file:
        described = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        npy.write_array_header_2_0(file, described)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype=kind).tobytes())


class _RowGroup:
    """One of a Parquet file; of all groups of a file the last that was asked for stays in memory."""

    def __init__(self, file: Any, number: int, size: int, last: dict[int, Features]) -> None:
        self._file, self._number, self._last = file, number, last
        self._rows = file.metadata.row_group(number).num_rows
        self.shape = (self._rows, size)

    def __len__(self) -> int:
        return int(self._rows)

    def __getitem__(self, rows: Indices) -> Features:
        if self._number not in self._last:
            self._last.clear()
            column = self._file.read_row_group(self._number, columns=["features"]).column("features").combine_chunks()
            flat = column.chunk(0) if hasattr(column, "chunk") else column
            self._last[self._number] = flat.flatten().to_numpy().reshape(self.shape)
        found: Features = self._last[self._number][rows]
        return found


def _open_parquet(path: Path) -> tuple[str, FeatureMatrix]:
    file = _pyarrow().parquet.ParquetFile(path)
    described = (file.schema_arrow.metadata or {})[_KEY].decode()
    size, last = file.schema_arrow.field("features").type.list_size, dict[int, Features]()
    groups = [_RowGroup(file, number, size, last) for number in range(file.metadata.num_row_groups)]
    return described, FeatureBlocks(groups, file.metadata.num_rows)


def _open_npz(path: Path) -> tuple[str, FeatureMatrix]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        with archive.open("metadata.npy") as entry:
            described = str(npy.read_array(entry))
        entry_of = archive.getinfo("features.npy")
        if entry_of.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its features are compressed")
        file.seek(entry_of.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)  # whose last two numbers are the lengths of what follows it
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
        npy.read_magic(file)
        shape, _, kind = npy.read_array_header_2_0(file)
        mapped = np.memmap(path, dtype=kind, mode="r", offset=file.tell(), shape=shape)
    return described, FeatureBlocks([mapped], len(mapped))


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "--out: Parquet needs pyarrow: pip install 'simclr_dist[parquet]'; .npz needs nothing more"
        ) from error
    return pyarrow
