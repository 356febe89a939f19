"""Which process this is, on which device, and the process group's beginning and end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from simclr_dist.errors import UserError

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Processes:
    """Where this process stands among those of the run."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> "Processes":
        """As torchrun, or this project's launcher, has set it; a single process without either.

        Raises:
            UserError: the variables are there but no numbers.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        try:
            return cls(*(int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 0, 1), strict=True)))
        except ValueError as error:
            raise UserError(
                f"{', '.join(names)}: must be whole numbers in the environment; start with torchrun"
            ) from error


def choose_device(requested: str, local_rank: int) -> torch.device:
    """The device of this process: its own GPU, or the CPU.

    Raises:
        UserError: CUDA was asked for and is not there, or there are more processes than GPUs.
    """
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("machine.device: 'cuda' was asked for, but torch sees no GPU; set machine.device=cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"machine.device: local process {local_rank} has no GPU of its own ({torch.cuda.device_count()} on this "
            "node); start one process a GPU"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def process_group(processes: Processes, device: torch.device) -> Iterator[None]:
    """The default process group for as long as the block runs: NCCL on CUDA, gloo on the CPU; none for one process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if processes.count == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def usable_cores() -> int:
    """Cores that this job may run on (SLURM and containers give fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(requested: int, local_processes: int) -> int:
    """Loader workers of one process: as requested, or (-1) the usable cores divided among the node's processes."""
    return requested if requested >= 0 else max(1, min(16, usable_cores() // local_processes))


def set_kernels(threads: int, deterministic: bool, local_processes: int) -> None:
    """Set CPU threads (0: the usable cores divided among the node's processes) and determinism of torch's kernels."""
    torch.set_num_threads(threads or max(1, usable_cores() // local_processes))
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
        # A debugging aid that costs a pass over every new tensor.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic
