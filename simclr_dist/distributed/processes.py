"""Which process this is, on which device, and the process group's beginning and end."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from simclr_dist.distributed.launchers import ranks_here
from simclr_dist.distributed.rendezvous import check_interface, first_holds_store, meeting_point
from simclr_dist.distributed.watchdog import progress
from simclr_dist.distributed.watchdog.heartbeats import HeartbeatStore
from simclr_dist.distributed.watchdog.monitor import LostProcesses
from simclr_dist.errors import UserError

_numbers = itertools.count()  # of groups in one store: none reads what an earlier one left there


@dataclass(frozen=True)
class Processes:
    """This process's rank among those of the run, and their number."""

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
        return cls(*ranks_here())


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
def process_group(
    processes: Processes, device: torch.device, timeout_seconds: int = 600, *, ends_itself: bool | None = None
) -> Iterator[None]:
    """The default process group for as long as the block runs: NCCL on CUDA, gloo on the CPU; none for one process.

    Args:
        processes: this process's rank, and how many there are.
        device: its device.
        timeout_seconds: how long a collective waits for the other processes.
        ends_itself: whether a thread ends this process, with the line, when it waits for one that is lost; otherwise
            the collective raises. None: where the backend raises nothing, as NCCL.

    Raises:
        UserError: the processes do not find each other, or one of them hangs or is gone; it is named.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if processes.count == 1:
        yield
        return
    if ends_itself is None:
        ends_itself = device.type == "cuda"
    timeout = timedelta(seconds=timeout_seconds)
    # The backend's own watchdog comes second.
    patience = timeout + timedelta(minutes=1) if ends_itself else timeout
    progress.begin()
    with (
        meeting_point(processes.rank, processes.count, timeout) as store,
        _lost_processes(store, processes, timeout_seconds) as lost,
        _group_destroyed(),
        lost.named(),
    ):
        if ends_itself:
            lost.end_when_waiting_in_vain()
        if device.type == "cpu":
            check_interface()
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore(f"group {next(_numbers)}", store),
            rank=processes.rank,
            world_size=processes.count,
            timeout=patience,
        )
        yield


@contextmanager
def _lost_processes(store: TCPStore, processes: Processes, timeout_seconds: int) -> Iterator[LostProcesses]:
    held_by_first = first_holds_store()
    try:
        heartbeats = HeartbeatStore(store, f"heartbeats {next(_numbers)}", is_here=held_by_first and processes.is_first)
    except dist.DistError as error:
        raise UserError("the store where the processes met is gone: see the log of process 0") from error
    lost = LostProcesses(heartbeats, processes.rank, processes.count, timeout_seconds, held_by_first=held_by_first)
    try:
        yield lost
    finally:
        lost.leave()


@contextmanager
def _group_destroyed() -> Iterator[None]:
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
