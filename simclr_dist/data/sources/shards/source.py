"""Images in the tar files of an index, every one checked against its CRC-32 when it is read."""

import os
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from simclr_dist.data.sources.base import BrokenImageError
from simclr_dist.data.sources.decoding import decode
from simclr_dist.data.sources.files import reason_of
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.shards.ahead import Ahead
from simclr_dist.data.sources.shards.cache import Refused, ShardCache
from simclr_dist.data.sources.shards.index import ShardIndex
from simclr_dist.data.sources.shards.local import LocalStore
from simclr_dist.data.sources.shards.place import Store
from simclr_dist.errors import UserError
from simclr_dist.terminal import printable
from simclr_dist.units import show_bytes

_OPEN_FILES = 64
_IN_A_ROW = 16
_POLL_SECONDS = 0.02


class ShardSource:
    """Images in tar files. ``read`` may be called for any sample; with locality it is fast on a server, too."""

    def __init__(
        self, index: ShardIndex, store: Store, cache: ShardCache | None, rule: PixelRule | None = None
    ) -> None:
        """``cache`` holds what is fetched from a server; None: ``store`` is a LocalStore, read where it lies."""
        self.index, self.store, self.cache, self.rule = index, store, cache, rule or PixelRule()
        self.path, self.labels, self.classes = index.folder, index.labels, index.classes
        self.shard_starts = index.starts
        left_out = sum(shard.left_out for shard in index.shards)
        self.remarks = [f"in {len(index.shards):,} shards below {printable(store.root)}"]
        self.remarks += [f"left out: {left_out:,} keys without an image"] if left_out else []
        self._files: OrderedDict[int, int] = OrderedDict()
        self._window: object = None
        self._plan: list[int] = []
        self._planned: frozenset[int] = frozenset()
        self._row = (-1, 0)
        self._ahead = Ahead(self._fetch_ahead)

    def __len__(self) -> int:
        return len(self.index)

    def name(self, sample: int) -> str:
        """A sample's shard and its name in it."""
        return f"{self.index.shards[self.index.shard_of(sample)].name}/{self.index.member(sample)}"

    def shard_at(self, sample: int) -> str:
        """Where the shard of a sample is."""
        return printable(f"{self.store.root}/{self.index.shards[self.index.shard_of(sample)].name}")

    def substitutes(self, sample: int) -> tuple[int, int]:
        """First sample id and number of those that may take a broken one's place: a shard that is here already."""
        shard = self.index.shard_of(sample)
        return int(self.shard_starts[shard]), self.index.shards[shard].samples

    def check_window(self, shards: int) -> None:
        """Is the cache large enough for an order with windows of so many shards?

        Raises:
            UserError: it cannot hold one.
        """
        if self.cache is None:
            return
        limit, sizes = self.cache.limit_bytes, sorted((shard.size for shard in self.index.shards), reverse=True)
        window = sum(sizes[:shards])
        if window > limit:
            raise UserError(
                f"machine.shards.cache_gigabytes: {limit / 1e9:g} does not hold a window of {min(shards, len(sizes))} "
                f"shards, which takes up to {show_bytes(window)}; raise it to twice that, or lower "
                "recipe.data.window_shards, which is another order"
            )
        if 2 * window > limit and sum(sizes) > limit:
            self.remarks.append("less than two windows: reading waits for fetching")

    def will_read(self, shards: Iterator[int], window: object) -> None:
        """Fetch ahead what comes: the shards of a window and those after it, as far as the cache holds them.

        Args:
            shards: in the order in which they are wanted.
            window: names the window; nothing is done while it stays the same.
        """
        here = (os.getpid(), window)  # a copy of this process has no thread and no list yet
        if self.cache is None or here == self._window:
            return
        self._window = here
        plan: dict[int, None] = {}
        room = self.cache.limit_bytes
        for shard in shards:
            if shard in plan:  # the next epoch has begun
                if len(plan) == len(self.index.shards):
                    break
                continue
            room -= self.index.shards[shard].size
            if room < 0:
                break
            plan[shard] = None
        self._take(list(plan))

    def content(self, sample: int) -> bytes:
        """The bytes of an image as they were indexed.

        Raises:
            UserError: they are others, or cannot be read.
        """
        shard = self.index.shard_of(sample)
        start, size = int(self.index.offsets[sample]), int(self.index.lengths[sample])
        for is_again in (False, True):
            found = self._bytes(shard, start, size)
            if len(found) == size and zlib.crc32(found) == self.index.crcs[sample]:
                return found
            if self.cache is None or is_again:
                break
            # Of the copy alone, perhaps: a node that lost its power leaves odd files.
            self.cache.remove(self.index.shards[shard].layout)
        raise UserError(
            f"{self.shard_at(sample)}: {printable(self.index.member(sample))} is not what was indexed (its CRC-32 "
            f"differs): damaged or replaced; bring the shard again, or index it as it is: "
            f"{self.index.command()}"
        )

    def read(self, sample: int) -> Tensor:
        """The image as uint8 of shape (3, height, width), a view of (height, width, 3).

        Raises:
            BrokenImageError: it was no image when it was indexed.
            UserError: it was changed later, or cannot be read.
        """
        content = self.content(sample)
        try:
            pixels = decode(content, self.rule)
        except MemoryError as error:
            raise UserError(
                f"{printable(self.name(sample))}: not enough memory to read it; give the job more, or lower "
                "machine.loader_workers"
            ) from error
        except Exception as error:  # Pillow's decoders raise almost anything on damaged input
            reason = f"{type(error).__name__}: {reason_of(error)}"
            raise BrokenImageError(f"{printable(self.name(sample))}: {reason}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def fingerprint(self) -> str:
        return self.index.fingerprint

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": OrderedDict(), "_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._ahead = Ahead(self._fetch_ahead)

    def _bytes(self, shard: int, start: int, size: int) -> bytes:
        if self.cache is None:
            return self._local(shard, start, size)
        layout = self.index.shards[shard].layout
        with self.cache.reading(layout) as descriptor:
            if descriptor is not None:
                return _pread(descriptor, start, size)
        if shard not in self._planned and not self._is_in_a_row(shard):
            return self._range(shard, start, size)
        return self._fetched(shard, start, size)

    def _is_in_a_row(self, shard: int) -> bool:
        """Whether so many samples of one shard were asked for that it is read from end to end: it is then planned."""
        self._row = (shard, self._row[1] + 1) if self._row[0] == shard else (shard, 1)
        if self._row[1] < _IN_A_ROW and self._row[1] < self.index.shards[shard].samples:
            return False
        assert self.cache
        plan: list[int] = []
        room = self.cache.limit_bytes // 2
        for number in range(shard, len(self.index.shards)):
            room -= self.index.shards[number].size
            if room < 0 and plan:
                break
            plan.append(number)
        self._take(plan)
        return True

    def _take(self, plan: list[int]) -> None:
        assert self.cache
        self._plan, self._planned = plan, frozenset(plan)
        layouts = [self.index.shards[number].layout for number in plan]
        try:
            self.cache.want(layouts)
        except OSError as error:
            raise UserError(f"machine.shards.cache_folder: {self.cache.folder}: {error.strerror}") from error
        if missing := [number for number, layout in zip(plan, layouts, strict=True) if not self.cache.has(layout)]:
            self._ahead.take(missing)

    def _fetched(self, shard: int, start: int, size: int) -> bytes:
        """Bytes of a shard that is not there: fetched here, or waited for where another process fetches it."""
        assert self.cache
        facts = self.index.shards[shard]
        patience, since = self._patience(), time.monotonic()
        while True:
            with self.cache.fetching(facts.layout, facts.size, ahead=False) as fetch:
                if not isinstance(fetch, Refused):
                    self._fill(fetch, shard)
                    return _pread(fetch.descriptor, start, size)
            if not fetch.is_being_fetched and time.monotonic() - since > patience:
                raise UserError(
                    f"machine.shards.cache_gigabytes: for {patience:.0f} s no shard in {self.cache.folder} could be "
                    "removed, all are being read or fetched; raise it"
                )
            time.sleep(_POLL_SECONDS)
            with self.cache.reading(facts.layout) as descriptor:
                if descriptor is not None:
                    return _pread(descriptor, start, size)

    def _fetch_ahead(self, shard: int) -> bool | None:
        assert self.cache
        facts = self.index.shards[shard]
        if self.cache.has(facts.layout):
            return True
        with self.cache.fetching(facts.layout, facts.size, ahead=True) as fetch:
            if isinstance(fetch, Refused):
                return None if fetch.is_being_fetched else False
            self._fill(fetch, shard)
        return True

    def _fill(self, fetch: Any, shard: int) -> None:
        facts = self.index.shards[shard]
        fetch.fill(self.store.content(facts.name, facts.size))

    def _range(self, shard: int, start: int, size: int) -> bytes:
        return bytes(self.store.part(self.index.shards[shard].name, start, start + size))  # type: ignore[attr-defined]

    def _patience(self) -> float:
        return float(getattr(self.store, "wait_seconds", 0.0))

    def _local(self, shard: int, start: int, size: int) -> bytes:
        assert isinstance(self.store, LocalStore)
        facts = self.index.shards[shard]
        try:
            if shard not in self._files:
                if len(self._files) >= _OPEN_FILES:
                    os.close(self._files.popitem(last=False)[1])
                self._files[shard] = os.open(self.store.path(facts.name), os.O_RDONLY | os.O_CLOEXEC)
            self._files.move_to_end(shard)
            return _pread(self._files[shard], start, size)
        except OSError as error:
            raise self.store.error(facts.name, error) from error

    def __del__(self) -> None:
        for descriptor in self._files.values():
            with suppress(OSError):
                os.close(descriptor)


def _pread(descriptor: int, start: int, size: int) -> bytes:
    parts, left = [], size
    while left and (part := os.pread(descriptor, left, start + size - left)):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
