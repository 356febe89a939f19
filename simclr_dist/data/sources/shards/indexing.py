"""The one pass over shards that makes their index: several at once, and from where a killed one stood."""

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from simclr_dist.data.sources.shards.finding import find_shards
from simclr_dist.data.sources.shards.index import ShardIndex, is_index, read_index
from simclr_dist.data.sources.shards.index_writing import write_index
from simclr_dist.data.sources.shards.parts import KnownParts
from simclr_dist.data.sources.shards.place import Store
from simclr_dist.data.sources.shards.samples import read_samples
from simclr_dist.data.sources.shards.store import open_store, stamps
from simclr_dist.data.sources.shards.tar import TarError
from simclr_dist.data.sources.worker_pool import worker_pool
from simclr_dist.errors import UserError
from simclr_dist.progress_bar import showing_progress
from simclr_dist.storage.flocks import alone
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.terminal import printable

_OWN = re.compile(r"index\.json|parts|columns_\w+|pretrain|train|test|\..*")
"""Names in an index's folder."""


def index_shards(
    places: Sequence[str],
    out: Path,
    labels: str,
    *,
    workers: int,
    wait_seconds: float,
    say: Callable[[str], object] = lambda line: None,
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
        UserError: there are no shards, one is no plain whole tar, a server does not answer, ``out`` is no index, or
            another process indexes into it.
    """
    root, names = find_shards(places, wait_seconds)
    if out.exists() and not (out.is_dir() and all(_OWN.fullmatch(name) for name in os.listdir(out))):
        raise UserError(f"{printable(str(out))}: is something else than an index; give the name of a new folder")
    store = open_store(root, wait_seconds)
    say(f"{len(names):,} shards below {root}: asking for their sizes")
    now = dict(zip(names, stamps(store, names), strict=True))
    try:
        with _alone(out):
            known = KnownParts.of(out, root, labels, now)
            if known.index is None and is_index(out):
                say(f"{printable(str(out))}: its index is damaged and is made anew")
            to_read = [name for name in names if name not in known.numbers and not known.has_part(name)]
            size = sum(stamp.size for stamp in now.values())
            say(f"{size / 1e9:.3g} GB; {len(to_read):,} shards to read, {len(names) - len(to_read):,} known")
            known.parts.mkdir(exist_ok=True)
            with showing_progress(len(to_read), unit="shards", active=bool(to_read)) as progress:
                _read_all(_Work(store, labels, known), to_read, workers, progress)
            write_index(out, root, labels, len(names), lambda number: known.part(names[number]))
            shutil.rmtree(known.parts, ignore_errors=True)
            return read_index(out)
    except OSError as error:
        raise cannot_be_read(out, error, "the index") from error


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """No other process indexes into the folder meanwhile, unless its file system has no locks."""
    out.mkdir(parents=True, exist_ok=True)
    refusal = f"{printable(str(out))}: another process is indexing into it; wait for it, or end it"
    with ExitStack() as held:
        try:
            held.enter_context(alone(out / ".lock", refusal))
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield


@dataclass
class _Work:
    """Reads a shard and keeps what is in it; goes to the worker processes."""

    store: Store
    labels: str
    known: KnownParts

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
        self.known.keep(name, found)


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
    with worker_pool(min(workers, len(names))) as pool:
        for done in as_completed([pool.submit(work, name) for name in names]):
            done.result()
            progress(1)
