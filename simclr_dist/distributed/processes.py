"""Which process this is, on which device, and the process group's beginning and end."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from simclr_dist.distributed.launchers import place_here
from simclr_dist.distributed.rendezvous import meeting_point
from simclr_dist.errors import UserError


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
        """As torchrun, srun, an MPI launcher or this project's own has set it; a single process without any.

        Raises:
            UserError: the variables contradict each other or are no numbers.
        """
        return cls(*place_here())


def choose_device(requested: str, local_rank: int) -> torch.device:
    """The device of this process: its own GPU, or the CPU.

    Raises:
        UserError: CUDA was asked for and is not there, or there are more processes than GPUs.
    """
    if requested == "cpu" or (requested == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("machine.device: 'cuda' was asked for, but torch sees no GPU; set machine.device=cpu")
    if "SLURM_GPUS_PER_TASK" in os.environ and torch.cuda.device_count() == 1:
        return torch.device("cuda", 0)  # srun shows each task its own GPU alone
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"machine.device: local process {local_rank} has no GPU of its own ({torch.cuda.device_count()} on this "
            "node); start one process a GPU"
        )
    return torch.device("cuda", local_rank)


@contextmanager
def process_group(processes: Processes, device: torch.device, timeout_seconds: int = 600) -> Iterator[None]:
    """The default process group for as long as the block runs: NCCL on CUDA, gloo on the CPU; none for one process.

    Args:
        processes: this process's place.
        device: its device.
        timeout_seconds: how long a collective waits for the other processes.

    Raises:
        UserError: the processes do not find each other, or one of them hangs or is gone.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if processes.count == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_seconds)
    with _told_of_lost_processes(timeout_seconds), meeting_point(processes.rank, processes.count, timeout) as store:
        if store is None:
            dist.init_process_group(backend, timeout=timeout)
        else:
            dist.init_process_group(
                backend, store=store, rank=processes.rank, world_size=processes.count, timeout=timeout
            )
        try:
            yield
        finally:
            dist.destroy_process_group()


@contextmanager
def _told_of_lost_processes(timeout_seconds: int) -> Iterator[None]:
    """One line instead of what the backends raise when another process is gone or does not answer."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "Timed out" in text or "timeout" in text.lower():
            raise UserError(
                f"another process has not answered for {timeout_seconds} s (machine.collective_timeout_seconds): it "
                "hangs, or its node is gone. Its log tells more; start again to go on from the last checkpoint"
            ) from error
        if isinstance(error, dist.DistError) or re.search(r"[Cc]onnection (closed|reset)|[Bb]roken pipe", text):
            raise UserError(
                "another process of the run has ended: its log tells why; start again to go on from the last checkpoint"
            ) from error
        raise


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
