"""CPU cores: those that this process may run on, and how many of them it may count as its own."""

import os
from collections.abc import Iterable
from fractions import Fraction

from simclr_dist.distributed.collectives import gather_objects
from simclr_dist.distributed.launchers import host_here

Mask = frozenset[int]
"""The numbers of some cores of a host."""
MOST_WORKERS = 16


def affinity() -> Mask:
    """The cores that this process may run on: SLURM, containers and taskset give fewer than the machine has."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def usable_cores() -> int:
    """How many cores this process may run on, alone or not."""
    return len(affinity())


def own_cores() -> int:
    """The cores of this process, those that it shares with others of its node counted in parts; every process calls it.

    torchrun gives all processes of a node all of its cores, srun --cpus-per-task each its own: what is shared cannot be
    told from the number of processes, only from where the others may run.
    """
    here, own = host_here(), affinity()
    masks = gather_objects((here, own), label="the cores of all processes")
    return share_of(own, (mask for host, mask in masks if host == here))


def share_of(own: Mask, masks: Iterable[Mask]) -> int:
    """The sum over the cores of ``own`` of 1 / (how many of ``masks``, own included, have it), at least 1."""
    sharing = dict.fromkeys(own, 0)
    for mask in masks:
        for core in mask & own:
            sharing[core] += 1
    return max(1, int(sum(Fraction(1, max(1, count)) for count in sharing.values())))


def worker_count(requested: int, cores: int) -> int:
    """Loader workers of a process with ``cores`` of its own: as requested, or (-1) one a core, at most 16."""
    return requested if requested >= 0 else min(MOST_WORKERS, cores)
