"""How the batch-norm groups of a recipe lie on the processes and chunks of a machine."""

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor

from simclr_dist.distributed.subgroups import new_group


@dataclass(frozen=True)
class StatisticsGroup:
    """How a batch-norm group maps onto processes: several local groups, or one group of several processes."""

    local_groups: int = 1
    """Equal groups of consecutive rows in this process's batch."""
    spans_processes: bool = False
    """Whether the one local group is a part of a larger one."""
    process_group: dist.ProcessGroup | None = None
    """The processes of the larger group; None with ``spans_processes``: all."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "StatisticsGroup":
        """Itself: a teacher that is copied from a student takes its statistics over the same processes."""
        return self


def divide_batch_norm(
    group_images: int, global_batch_images: int, processes: int, *, chunk_images: int = 0, make_groups: bool = True
) -> StatisticsGroup:
    """The mapping of batch-norm groups of ``group_images`` (0: the whole global batch) onto processes and chunks.

    Group number k holds the images k*group_images ... of the global batch, on any number of processes. With
    ``make_groups=False`` it only checks. Otherwise every process must call it: it makes process groups.

    Raises:
        ValueError: neither does a group divide a process's share or chunk, nor a share a group.
    """
    share = global_batch_images // processes
    images = group_images or global_batch_images
    at_once = chunk_images or share
    if at_once % images == 0:
        return StatisticsGroup(local_groups=at_once // images)
    if at_once < share:
        raise ValueError(
            f"machine.images_per_chunk: chunks of {at_once} images do not hold whole batch-norm groups of {images}; "
            f"set machine.images_per_chunk=0 and machine.recompute=all to save memory under this recipe, start more "
            f"processes, or take a chunk that {images} divides"
        )
    if images % share:
        raise ValueError(
            f"recipe.batch_norm_group_images: groups of {images} images cannot be mapped onto {processes} processes of "
            f"{share} images each; take a number of processes whose share divides {images} or is a multiple of it"
        )
    members = images // share
    if members == processes or not make_groups:
        return StatisticsGroup(spans_processes=True)
    made = [new_group(list(range(first, first + members))) for first in range(0, processes, members)]
    own = made[dist.get_rank() // members]
    assert own is not None
    return StatisticsGroup(spans_processes=True, process_group=own)


def join_statistics(means: Tensor, variances: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all parts along ``dim``, which are equally many rows each (Chan et al. 1979).

    No sum of squares, so no cancellation when the mean is large.
    """
    mean = means.mean(dim)
    if means.shape[dim] == 1:
        return mean, variances.mean(dim)
    return mean, variances.mean(dim) + (means - mean.unsqueeze(dim)).square().mean(dim)
