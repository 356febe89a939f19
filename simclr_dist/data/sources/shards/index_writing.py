"""An index of shards is written: its columns shard by shard, then index.json, which names them."""

import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from simclr_dist.data.sources.shards.index import COLUMNS, NAME, VERSION, Part
from simclr_dist.data.sources.shards.samples import Label
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.sealed_json import sealed


def write_index(folder: Path, root: str, labels_from: str, count: int, part: Callable[[int], Part]) -> None:
    """Put an index of ``count`` shards into a folder: the whole of it, or none of it.

    Args:
        folder: may hold an index, which ``part`` may read.
        root: of the shards' names.
        labels_from: as :func:`read_samples` was asked.
        count: shards.
        part: the samples of the shard of a number; called twice for each, so that one at a time is in memory.

    Raises:
        OSError: as the file system says.
    """
    shards, seen, labelled, name_bytes = [], set[Label](), True, 0
    for each in (part(number) for number in range(count)):
        shards.append(each.shard)
        seen.update(each.labels)
        name_bytes += len(each.names)
    labelled = None not in seen and bool(seen)
    number_of, classes = _classes(seen)
    fingerprint = sha256("".join(shard.digest for shard in shards).encode()).hexdigest()
    samples = sum(shard.samples for shard in shards)
    columns = folder / f"columns_{fingerprint[:16]}_{secrets.token_hex(4)}"
    columns.mkdir(parents=True)
    try:
        wanted = [name for name in COLUMNS if name != "labels" or labelled]
        crcs = _write_columns(
            columns, wanted, samples, name_bytes, (part(number) for number in range(count)), number_of
        )
        content = {
            "format": VERSION,
            "images": samples,
            "labelled": labelled,
            "partly_labelled": not labelled and bool(seen - {None}),
            "root": root,
            "labels_from": labels_from,
            "fingerprint": fingerprint,
            "columns": columns.name,
            "crc32": crcs,
            "classes": classes if labelled else [],
            "shards": shards,
        }
        write_atomically(folder / NAME, sealed(content))
    except BaseException:
        shutil.rmtree(columns, ignore_errors=True)
        raise
    for earlier in folder.glob("columns_*"):
        if earlier != columns:
            shutil.rmtree(earlier, ignore_errors=True)  # who has it mapped keeps it


def _write_columns(
    folder: Path, wanted: Iterable[str], samples: int, name_bytes: int, parts: Iterator[Part], number_of: dict[Any, int]
) -> dict[str, int]:
    """Fill the columns shard by shard; their checksums."""
    files, crcs = {}, {}
    for name in wanted:
        files[name] = (folder / f"{name}.npy").open("wb")
        shape = (name_bytes if name == "names" else samples,)
        header = {"descr": np.dtype(COLUMNS[name]).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(files[name], header)
        crcs[name] = 0
    before = 0
    try:
        for part in parts:
            values: dict[str, Any] = {
                "names": part.names, "ends": part.ends + before, "offsets": part.offsets, "lengths": part.lengths,
                "crcs": part.crcs,
            }  # fmt: skip
            if "labels" in files:
                values["labels"] = [number_of[label] for label in part.labels]
            for name, file in files.items():
                written = np.asarray(values[name], dtype=COLUMNS[name]).tobytes()
                file.write(written)
                crcs[name] = zlib.crc32(written, crcs[name])
            before += len(part.names)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            with suppress(OSError):
                file.close()
    return crcs


def _classes(labels: set[Label]) -> tuple[dict[Any, int], list[str]]:
    """Label -> number, and names by number: numbers stay what they are, names are numbered in their order."""
    known = labels - {None}
    numbers = [label for label in known if isinstance(label, int)]
    if len(numbers) == len(known):
        return {label: label for label in numbers}, [str(number) for number in range(max(numbers, default=-1) + 1)]
    names = sorted({str(label) for label in known})
    number_of = {name: number for number, name in enumerate(names)}
    return {label: number_of[str(label)] for label in known}, names
