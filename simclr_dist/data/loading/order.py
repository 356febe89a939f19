"""The order of the images: a pseudo-random permutation of each epoch, computed position by position in O(1) memory.

A keyed Feistel network permutes [0, 2^k), 2^k being the first power of two that holds the data set; a result outside
the data set is permuted again until it falls inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). No list of indices exists anywhere, so a billion images cost nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from simclr_dist.config import Recipe
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.shards.source import ShardSource
from simclr_dist.errors import UserError
from simclr_dist.random.permutation import permute
from simclr_dist.random.philox import Purpose


@dataclass(frozen=True, kw_only=True)
class SampleOrder:
    """Which images each step of a run sees: step -> epoch, and the sample ids of its global batch in order."""

    seed: int
    images: int
    global_batch_images: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch; the images left over are others in each epoch."""
        return self.images // self.global_batch_images

    def epoch(self, step: int) -> int:
        """The epoch of a step, both counted from 0."""
        return step // self.steps_per_epoch

    def samples(self, step: int, rank: int = 0, processes: int = 1) -> NDArray[np.int64]:
        """Sample ids of one process's share of step ``step`` (from 0), shape (global_batch_images / processes,).

        The shares of all ranks, one after the other, are the global batch, whatever the number of processes.
        """
        share = self.global_batch_images // processes
        start = (step % self.steps_per_epoch) * self.global_batch_images + rank * share
        return permute(np.arange(start, start + share), self.images, self.seed, self.epoch(step))


@dataclass(frozen=True, kw_only=True)
class ShardOrder(SampleOrder):
    """An order with locality: the shards of an epoch are permuted and cut into windows of ``window_shards``, and the
    samples of a window are permuted (docs/design/shards.md). Sample ids count through the shards."""

    starts: NDArray[np.int64]
    """First sample id of each shard, and the number of samples last: shape (shards + 1,)."""
    window_shards: int

    def samples(self, step: int, rank: int = 0, processes: int = 1) -> NDArray[np.int64]:
        share = self.global_batch_images // processes
        start = (step % self.steps_per_epoch) * self.global_batch_images + rank * share
        epoch = self.epoch(step)
        _, ends = self._epoch(epoch)
        positions = np.arange(start, start + share)
        windows = self._windows(ends, positions)
        found = np.empty(share, dtype=np.int64)
        for window in range(windows[0], windows[-1] + 1):
            rows = slice(*np.searchsorted(windows, [window, window + 1]))
            found[rows] = self._of_window(epoch, window, positions[rows])
        return found

    def shards_from(self, step: int) -> Iterator[int]:
        """The shards in which a step's samples lie and those after them, without end: first those of its windows.

        Within a window they come as the epoch has them, not as they are read: each is read in all of it.
        """
        epoch = self.epoch(step)
        first = (step % self.steps_per_epoch) * self.global_batch_images
        shards, ends = self._epoch(epoch)
        at = int(self._windows(ends, np.array([first]))[0]) * self.window_shards
        while True:
            yield from shards[at:].tolist()
            at, epoch = 0, epoch + 1
            shards, ends = self._epoch(epoch)

    def window(self, step: int) -> tuple[int, int]:
        """Epoch and number of the window in which a step begins."""
        epoch, first = self.epoch(step), (step % self.steps_per_epoch) * self.global_batch_images
        return epoch, int(self._windows(self._epoch(epoch)[1], np.array([first]))[0])

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards in the order of an epoch, and the position at which each one's samples end in that order."""
        return _shards_of_epoch(_Unhashed(self.starts), self.seed, epoch)

    def _windows(self, ends: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(ends, positions, side="right") // self.window_shards

    def _of_window(self, epoch: int, window: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample ids at positions of the epoch that all lie in one window."""
        shards, ends = self._epoch(epoch)
        first, last = window * self.window_shards, min((window + 1) * self.window_shards, len(shards))
        begin = int(ends[first - 1]) if first else 0
        places = permute(
            positions - begin, int(ends[last - 1]) - begin, self.seed, epoch, Purpose.WINDOW, window
        ) + begin  # fmt: skip
        number = np.searchsorted(ends, places, side="right")
        before_end: NDArray[np.int64] = ends[number] - places
        return self.starts[shards[number] + 1] - before_end


class _Unhashed:
    """An array as part of a key: the same object is the same array."""

    def __init__(self, array: NDArray[np.int64]) -> None:
        self.array = array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed) and other.array is self.array

    def __hash__(self) -> int:
        return id(self.array)


@lru_cache(maxsize=4)
def _shards_of_epoch(starts: _Unhashed, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    counts = np.diff(starts.array)
    shards = permute(np.arange(len(counts)), len(counts), seed, epoch, Purpose.SHARDS)
    return shards, np.cumsum(counts[shards])


def build_order(recipe: Recipe, images: int | ImageSource) -> SampleOrder:
    """The order of the images, given by their source; of their number alone, as far as lengths are asked for.

    Raises:
        UserError: there are fewer images than a global batch, or the cache for shards is too small.
    """
    count = images if isinstance(images, int) else len(images)
    if count < recipe.global_batch_images:
        raise UserError(
            f"recipe.global_batch_images: {recipe.global_batch_images} is more than the data set's {count} images; "
            f"lower it to {count} or less"
        )
    if not isinstance(images, ShardSource):
        return SampleOrder(seed=recipe.seed, images=count, global_batch_images=recipe.global_batch_images)
    images.check_window(recipe.data.window_shards)
    return ShardOrder(
        seed=recipe.seed,
        images=count,
        global_batch_images=recipe.global_batch_images,
        starts=images.shard_starts,
        window_shards=recipe.data.window_shards,
    )
