"""The order of the images: a pseudo-random permutation of each epoch, computed position by position in O(1) memory.

A keyed Feistel network permutes [0, 2^k), 2^k being the first power of two that holds the data set; a result outside
the data set is permuted again until it falls inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). No list of indices exists anywhere, so a billion images cost nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr_dist.config import Recipe
from simclr_dist.errors import UserError
from simclr_dist.random.permutation import permute


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


def build_order(recipe: Recipe, images: int) -> SampleOrder:
    """The order of the images.

    Raises:
        UserError: there are fewer images than a global batch.
    """
    if images < recipe.global_batch_images:
        raise UserError(
            f"recipe.global_batch_images: {recipe.global_batch_images} is more than the data set's {images} images; "
            f"lower it to {images} or less"
        )
    return SampleOrder(seed=recipe.seed, images=images, global_batch_images=recipe.global_batch_images)
