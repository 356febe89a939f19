"""Shards of a server as a process reads them: which it fetches whole and when, and of which it asks for a range."""

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from simclr_dist.data.sources.shards.ahead import Ahead
from simclr_dist.data.sources.shards.cache import Fetch, Refused, ShardCache
from simclr_dist.data.sources.shards.index import ShardIndex
from simclr_dist.data.sources.shards.local import read_at
from simclr_dist.errors import UserError
from simclr_dist.units import show_bytes

if TYPE_CHECKING:
    from simclr_dist.data.sources.shards.remote import RemoteStore

_IN_A_ROW = 16
_POLL_SECONDS = 0.02


class FetchedShards:
    """Read from whole copies in the node's cache, or by range where they have no locality."""

    def __init__(self, index: ShardIndex, store: "RemoteStore", cache: ShardCache) -> None:
        self.index, self.store, self.cache = index, store, cache
        self._window: object = None
        self._planned: frozenset[int] = frozenset()
        self._row = (-1, 0)
        self._ahead = Ahead(self._fetch_ahead)

    def check_window(self, shards: int) -> list[str]:
        """A remark, if the cache is small for an order with windows of so many shards.

        Raises:
            UserError: it cannot hold one.
        """
        limit, sizes = self.cache.limit_bytes, sorted((shard.size for shard in self.index.shards), reverse=True)
        window = sum(sizes[:shards])
        if window > limit:
            raise UserError(
                f"machine.shards.cache_gigabytes: {limit / 1e9:g} does not hold a window of {min(shards, len(sizes))} "
                f"shards, which takes up to {show_bytes(window)}; raise it to twice that, or lower "
                "recipe.data.window_shards, which is another order"
            )
        if 2 * window > limit and sum(sizes) > limit:
            return ["less than two windows: reading waits for fetching"]
        return []

    def will_read(self, shards: Iterator[int], window: object) -> None:
        """Fetch ahead what comes: the shards of a window and those after it, as far as the cache holds them.

        Args:
            shards: in the order in which they are wanted.
            window: names the window; nothing is done while it stays the same.
        """
        here = (os.getpid(), window)  # a copy of this process has no thread and no list yet
        if here == self._window:
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

    def part(self, shard: int, start: int, size: int) -> bytes:
        """Bytes of a shard, fewer where it ends."""
        layout = self.index.shards[shard].layout
        with self.cache.reading(layout) as descriptor:
            if descriptor is not None:
                return read_at(descriptor, start, size)
        if shard not in self._planned and not self._is_in_a_row(shard):
            return self.store.part(self.index.shards[shard].name, start, start + size)
        return self._fetched(shard, start, size)

    def drop_copy(self, shard: int) -> bool:
        """Remove a copy that is not what was indexed; whether reading again may help."""
        # Of the copy alone, perhaps: a node that lost its power leaves odd files.
        self.cache.remove(self.index.shards[shard].layout)
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._ahead = Ahead(self._fetch_ahead)

    def _is_in_a_row(self, shard: int) -> bool:
        """Whether so many samples of one shard were asked for that it is read from end to end: it is then planned."""
        self._row = (shard, self._row[1] + 1) if self._row[0] == shard else (shard, 1)
        if self._row[1] < _IN_A_ROW and self._row[1] < self.index.shards[shard].samples:
            return False
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
        self._planned = frozenset(plan)
        layouts = [self.index.shards[number].layout for number in plan]
        try:
            self.cache.want(layouts)
        except OSError as error:
            raise UserError(f"machine.shards.cache_folder: {self.cache.folder}: {error.strerror}") from error
        if missing := [number for number, layout in zip(plan, layouts, strict=True) if not self.cache.has(layout)]:
            self._ahead.take(missing)

    def _fetched(self, shard: int, start: int, size: int) -> bytes:
        """Bytes of a shard that is not there: fetched here, or waited for where another process fetches it."""
        facts = self.index.shards[shard]
        patience, since = self.store.wait_seconds, time.monotonic()
        while True:
            with self.cache.fetching(facts.layout, facts.size, ahead=False) as fetch:
                if not isinstance(fetch, Refused):
                    self._fill(fetch, shard)
                    return read_at(fetch.descriptor, start, size)
            if not fetch.is_being_fetched and time.monotonic() - since > patience:
                raise UserError(
                    f"machine.shards.cache_gigabytes: for {patience:.0f} s no shard in {self.cache.folder} could be "
                    "removed, all are being read or fetched; raise it"
                )
            time.sleep(_POLL_SECONDS)
            with self.cache.reading(facts.layout) as descriptor:
                if descriptor is not None:
                    return read_at(descriptor, start, size)

    def _fetch_ahead(self, shard: int) -> bool | None:
        facts = self.index.shards[shard]
        if self.cache.has(facts.layout):
            return True
        with self.cache.fetching(facts.layout, facts.size, ahead=True) as fetch:
            if isinstance(fetch, Refused):
                return None if fetch.is_being_fetched else False
            self._fill(fetch, shard)
        return True

    def _fill(self, fetch: Fetch, shard: int) -> None:
        facts = self.index.shards[shard]
        fetch.fill(self.store.content(facts.name, facts.size))
