"""What is left of a GPU's memory for the tensors of a step: assumed, and corrected by what runs log of their peaks."""

from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.planning.communication import Assumptions


def bytes_for_tensors(gpu_bytes: float, group_images: int, batch_images: int, gpus: int, assumed: Assumptions) -> float:
    """The memory of one of ``gpus``, less a share of it and no less than what libraries are assumed to take.

    A step of ``batch_images`` in batch-norm groups of ``group_images`` (0: all) has a communicator of all processes,
    and one more where a group is of some of them.
    """
    taken = assumed.workspace_bytes
    if gpus > 1:
        norm = divide_batch_norm(group_images, batch_images, gpus, make_groups=False)
        some = norm.spans_processes and 0 < group_images < batch_images
        taken += (1 + some) * assumed.communicator_bytes
    return max(0.0, gpu_bytes - max(assumed.memory_margin * gpu_bytes, taken))
