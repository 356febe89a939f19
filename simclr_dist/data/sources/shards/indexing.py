"""The one pass over shards that makes their index: several at once, and from where a killed one stood."""

import glob
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from simclr_dist.data.sources.beton.parallel import end_with
from simclr_dist.data.sources.shards.index import Part, Shard, ShardIndex, is_index, read_index
from simclr_dist.data.sources.shards.index_writing import write_index
from simclr_dist.data.sources.shards.place import Stamp, Store, is_remote
from simclr_dist.data.sources.shards.samples import as_column, read_samples
from simclr_dist.data.sources.shards.store import open_store, stamps
from simclr_dist.data.sources.shards.tar import TarError
from simclr_dist.errors import UserError
from simclr_dist.progress_bar import showing_progress
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.terminal import printable

_PARTS = "parts"
_OWN = re.compile(r"index\.json|parts|columns_\w+|pretrain|train|test|\..*")
"""Names in an index's folder."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def find_shards(places: Sequence[str], wait_seconds: float) -> tuple[str, list[str]]:
    """The root of some shards and their names below it, in order.

    Args:
        places: tar files, folders or URLs of folders that hold some at any depth, patterns (``*``, and ``{000..146}``).
        wait_seconds: how long a server is waited for.

    Raises:
        UserError: there are none, they are not of one root, or a server does not answer.
    """
    found: set[str] = set()
    for place in (one for given in places for one in _expanded(given.removeprefix("file://"))):
        if is_remote(place):
            found.update(_below_url(place, wait_seconds))
        else:
            found.update(_below(place))
    if len({place.partition("://")[0] if is_remote(place) else "" for place in found}) > 1:
        raise UserError("shards of one index must be in one place: all on disks, or all on one server")
    if not found:
        raise UserError(f"{printable(' '.join(places))}: no .tar files there; give tar files or a folder of them")
    folders = {place.rpartition("/")[0] for place in found}
    root = os.path.commonpath(folders) if not is_remote(next(iter(found))) else _common_url(folders)
    return root, sorted(place[len(root) + 1 :] for place in found)


def index_shards(
    places: Sequence[str],
    out: Path,
    labels: str,
    *,
    workers: int,
    wait_seconds: float,
    say: Callable[[str], None] = lambda line: None,
) -> ShardIndex:
    """Make the index of some shards in a folder, or bring the one there up to date.

    Args:
        places: as :func:`find_shards` takes them.
        out: the index's folder.
        labels: one of samples.LABELS.
        workers: processes that read shards; 0: this one.
        wait_seconds: how long a server is waited for.
        say: for lines about what is done.

    Raises:
        UserError: there are no shards, one is no plain whole tar, a server does not answer, or ``out`` is no index.
    """
    root, names = find_shards(places, wait_seconds)
    if out.exists() and not (out.is_dir() and all(_OWN.fullmatch(name) for name in os.listdir(out))):
        raise UserError(f"{printable(str(out))}: is something else than an index; give the name of a new folder")
    store = open_store(root, wait_seconds)
    say(f"{len(names):,} shards below {root}: asking for their sizes")
    now = dict(zip(names, stamps(store, names), strict=True))
    known = _Known.of(out, root, labels, now)
    to_read = [name for name in names if name not in known.numbers and not known.has_part(name)]
    size = sum(stamp.size for stamp in now.values())
    say(f"{size / 1e9:.3g} GB; {len(to_read):,} shards to read, {len(names) - len(to_read):,} known")
    try:
        known.parts.mkdir(parents=True, exist_ok=True)
        with showing_progress(len(to_read), unit="shards", active=bool(to_read)) as progress:
            _read_all(_Work(store, labels, known), to_read, workers, progress)
        write_index(out, root, labels, len(names), lambda number: known.part(names[number]))
    except OSError as error:
        raise cannot_be_read(out, error, "the index") from error
    shutil.rmtree(known.parts, ignore_errors=True)
    return read_index(out)


@dataclass
class _Known:
    """What earlier passes have found out of the shards as they are now."""

    parts: Path
    labels: str
    root: str
    stamps: dict[str, Stamp]
    index: ShardIndex | None
    numbers: dict[str, int]
    """Name -> its number in ``index``, of those that are still the same."""

    @classmethod
    def of(cls, out: Path, root: str, labels: str, now: dict[str, Stamp]) -> "_Known":
        index, numbers = None, {}
        if is_index(out):
            index = read_index(out)
            if (index.root, index.labels_from) == (root, labels):
                numbers = {
                    shard.name: number
                    for number, shard in enumerate(index.shards)
                    if now.get(shard.name) == (shard.size, shard.mark)
                }
        return cls(out / _PARTS, labels, root, now, index, numbers)

    def path(self, name: str) -> Path:
        """Of the shard as it is now, and of no other."""
        identity = json.dumps([self.root, self.labels, name, *self.stamps[name]])
        return self.parts / f"{sha256(identity.encode()).hexdigest()[:32]}.npz"

    def has_part(self, name: str) -> bool:
        return self.path(name).is_file()

    def part(self, name: str) -> Part:
        if name in self.numbers and self.index:
            return self.index.part(self.numbers[name])
        with np.load(self.path(name), allow_pickle=False) as stored:
            columns: dict[str, Any] = dict(stored)
        shard = Shard(*json.loads(columns.pop("shard").tobytes()))
        return Part(shard, labels=json.loads(columns.pop("labels").tobytes()), **columns)


@dataclass
class _Work:
    """Reads a shard and keeps what is in it; goes to the worker processes."""

    store: Store
    labels: str
    known: _Known

    def __call__(self, name: str) -> None:
        stamp = self.known.stamps[name]
        where = printable(f"{self.store.root}/{name}")
        try:
            found = read_samples(_Stream(self.store.content(name, stamp.size)), self.labels)
        except TarError as error:
            raise UserError(f"{where}: {printable(str(error))}") from error
        if not len(found):
            raise UserError(f"{where}: holds no images (members KEY.jpg, KEY.png ...); leave it out")
        if self.store.stamp(name) != stamp:
            raise UserError(f"{where}: was written while it was read; index it when it is whole")
        shard = Shard(
            name, stamp.size, stamp.mark, len(found), found.digest(), found.layout_digest(stamp.size), found.left_out
        )
        columns = {
            "shard": _as_bytes(shard),
            "labels": _as_bytes(found.labels),
            "names": np.frombuffer(b"".join(found.names), dtype=np.uint8),
            "ends": np.cumsum([len(each) for each in found.names], dtype="<i8"),
            "offsets": as_column(found.offsets),
            "lengths": as_column(found.lengths),
            "crcs": as_column(found.crcs),
        }
        write_atomically(self.known.path(name), lambda file: np.savez(file, **columns))


class _Stream:
    """Parts of a file as one that is read."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._buffer, self._at = parts, b"", 0

    def read(self, count: int) -> bytes:
        end = self._at + count
        if end <= len(self._buffer):
            found = self._buffer[self._at : end]
            self._at = end
            return found
        pieces = [self._buffer[self._at :]]
        missing = count - len(pieces[0])
        self._buffer, self._at = b"", 0
        while missing > 0 and (part := next(self._parts, b"")):
            pieces.append(part[:missing])
            if len(part) > missing:
                self._buffer, self._at = part, missing
            missing -= len(pieces[-1])
        return b"".join(pieces)


def _read_all(work: _Work, names: list[str], workers: int, progress: Callable[[int], None]) -> None:
    if min(workers, len(names)) <= 1:
        for name in names:
            work(name)
            progress(1)
        return
    # Forked, as loader workers are: fsspec begins anew in them, and nothing is imported again.
    pool = ProcessPoolExecutor(min(workers, len(names)), get_context("fork"), _begin_worker)
    try:
        for done in as_completed([pool.submit(work, name) for name in names]):
            done.result()
            progress(1)
    except BrokenProcessPool as error:
        raise UserError("a worker was killed, perhaps for want of memory; try fewer with --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells its workers to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()


def _as_bytes(value: object) -> Any:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _expanded(place: str) -> list[str]:
    """A place for each choice of its braces: ``{000..146}`` and ``{a,b}``."""
    pieces = _BRACES.split(place)
    choices = [[piece] if number % 2 == 0 else _choices(piece) for number, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inner: str) -> list[str]:
    if not (numbers := _RANGE.fullmatch(inner)):
        return inner.split(",")
    width = len(numbers[1])
    return [f"{number:0{width}}" for number in range(int(numbers[1]), int(numbers[2]) + 1)]


def _below(place: str) -> Iterator[str]:
    for path in sorted(glob.glob(os.path.expanduser(place))) if glob.has_magic(place) else [os.path.expanduser(place)]:
        full = os.path.abspath(path)
        if os.path.isdir(full):
            for folder, _, files in os.walk(full):
                yield from (os.path.join(folder, name) for name in files if name.endswith(".tar"))
        elif os.path.exists(full):
            yield full
        else:
            raise UserError(f"{printable(path)}: no such file or folder; give tar files or a folder of them")


def _below_url(place: str, wait_seconds: float) -> Iterator[str]:
    if place.endswith(".tar") and "*" not in place:
        yield place
        return
    from simclr_dist.data.sources.shards.remote import RemoteStore

    folder, pattern = place.rstrip("/"), "*"
    if "*" in place:
        folder, _, pattern = place.rpartition("/")
    for name in RemoteStore(folder, wait_seconds).find():
        if name.endswith(".tar") and re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name):
            yield f"{folder}/{name}"


def _common_url(folders: set[str]) -> str:
    parts = [folder.split("/") for folder in folders]
    same = 0
    while len({tuple(each[: same + 1]) for each in parts}) == 1 and same < min(map(len, parts)):
        same += 1
    if same > 2:
        return "/".join(parts[0][:same])
    raise UserError("shards of one index must be on one server; give one index to each")
