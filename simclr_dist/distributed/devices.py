"""Which device a process computes on."""

import torch

from simclr_dist.distributed.collectives import gather_objects
from simclr_dist.distributed.launchers import host_here
from simclr_dist.errors import AgreedError, UserError


def choose_device(requested: str, local_rank: int) -> torch.device:
    """The device of this process: its own GPU, or the CPU.

    A launcher may show each process one GPU alone, the same number 0 to all: by SLURM's --gpus-per-task or --gpu-bind,
    or a wrapper that sets CUDA_VISIBLE_DEVICES. :func:`refuse_shared_gpus` sees whether they are different ones.

    Raises:
        UserError: CUDA was asked for and is not there, or there are more processes than GPUs.
    """
    visible = _visible_gpus(requested)
    if not visible:
        return torch.device("cpu")
    if visible == 1:
        return torch.device("cuda", 0)
    if local_rank >= visible:
        raise _too_few(local_rank, visible)
    return torch.device("cuda", local_rank)


def require_devices(requested: str, count: int) -> None:
    """Refuse to start ``count`` processes that see what this one sees.

    Raises:
        UserError: CUDA was asked for and is not there, or there are more processes than GPUs.
    """
    visible = _visible_gpus(requested)
    if visible and count > visible:
        raise _too_few(visible, visible)


def refuse_shared_gpus(device: torch.device) -> None:
    """Compare the GPUs of all processes, of which each must have its own: NCCL takes one process a GPU.

    Raises:
        AgreedError: two have the same one.
    """
    own = (host_here(), str(torch.cuda.get_device_properties(device).uuid))
    ranks: dict[tuple[str, str], list[int]] = {}
    for rank, gpu in enumerate(gather_objects(own, label="the comparison of GPUs")):
        ranks.setdefault(gpu, []).append(rank)
    for (host, uuid), those in ranks.items():
        if len(those) > 1:
            raise AgreedError(
                f"machine.device: processes {', '.join(map(str, those))} on {host} have the same GPU ({uuid}); start "
                "one process a GPU, and let CUDA_VISIBLE_DEVICES show all GPUs of the node or each process another"
            )


def _visible_gpus(requested: str) -> int:
    """0: the CPU is to be taken."""
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return 0
    if not torch.cuda.is_available():
        raise UserError("machine.device: 'cuda' was asked for, but torch sees no GPU; set machine.device=cpu")
    return torch.cuda.device_count()


def _too_few(local_rank: int, visible: int) -> UserError:
    return UserError(
        f"machine.device: local process {local_rank} has no GPU of its own ({visible} on this node); start one process "
        "a GPU"
    )
