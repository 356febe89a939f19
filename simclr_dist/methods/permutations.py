"""Permutations that are far from each other, for jigsaws."""

from functools import lru_cache, partial
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from simclr_dist.distributed.launchers import rank_here
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.terminal import say

BY = ("mean", "minimum")
MOST_PATCHES = 9  # all permutations are looked at: 362,880 of nine
Permutations = NDArray[np.uint8]


@lru_cache(maxsize=4)
def far_permutations(patches: int, count: int, first: int, by: str = "mean") -> Permutations:
    """``count`` permutations of ``range(patches)``, (count, patches), each as far as can be from those before it.

    Greedy (Noroozi and Favaro 2016, arXiv 1603.09246, algorithm 1): the next one has the largest mean Hamming distance
    to those taken (``mean``), or the largest to the nearest of them (``minimum``); of equals the first in lexicographic
    order. The distances are whole numbers, so the table is the same on every machine.

    Args:
        patches: at most MOST_PATCHES.
        count: at most patches!.
        first: the place of the first permutation in lexicographic order.
        by: one of BY.
    """
    what = f"looking for {count:,} of the permutations of {patches} patches"
    with said_when_slow(what, write=partial(say, err=True), active=rank_here() == 0):
        # Patch by patch, since a column is compared with one number faster than rows with a row.
        columns = np.array(list(permutations(range(patches))), dtype=np.uint8).T.copy()
        taken = np.empty(count, dtype=np.int64)
        # Places in which a permutation agrees with those taken: of all of them, or of the one most like it.
        alike = np.zeros(columns.shape[1], dtype=np.int32)
        chosen = first
        for number in range(count):
            taken[number] = chosen
            same = np.zeros(len(alike), dtype=np.uint8)
            for column in columns:
                same += column == column[chosen]
            alike = alike + same if by == "mean" else np.maximum(alike, same)
            alike[taken[: number + 1]] = np.iinfo(np.int32).max // 2  # not once more
            chosen = int(alike.argmin())
        return columns[:, taken].T.copy()
