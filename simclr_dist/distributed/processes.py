"""Which process this is, on which device, and the process group's beginning and end."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from simclr_dist import compat
from simclr_dist.distributed.collectives import process_rank
from simclr_dist.distributed.connections import break_off, connections_noted, keep_connections_of
from simclr_dist.distributed.devices import refuse_shared_gpus
from simclr_dist.distributed.ending import abandon_group
from simclr_dist.distributed.launchers import ranks_here
from simclr_dist.distributed.nccl import begin_group, end_abort
from simclr_dist.distributed.rendezvous import SHORTEST, check_interface, first_holds_store, meeting_point
from simclr_dist.distributed.subgroups import patience_of_groups
from simclr_dist.distributed.waits import end_waits
from simclr_dist.distributed.watchdog import progress
from simclr_dist.distributed.watchdog.guard import end_when_waiting_in_vain
from simclr_dist.distributed.watchdog.heartbeats import HeartbeatStore
from simclr_dist.distributed.watchdog.monitor import LostProcesses
from simclr_dist.errors import LostProcessError, StuckError, UserError

_numbers = itertools.count()  # of groups in one store: none reads what an earlier one left there
# After a meeting all come at once, or one has been lost since.
_TO_FORM = timedelta(seconds=30)
_SECONDS_TO_BREAK = 1.0
_SECONDS_TO_ABORT = 60.0
_open: list[ExitStack] = []  # the group that this process is in, if process_group made it


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


@contextmanager
def process_group(
    processes: Processes,
    device: torch.device,
    timeout_seconds: int = 600,
    *,
    ends_itself: bool | None = None,
    is_stopped: Callable[[], object] = lambda: False,
    when_in_vain: Callable[[], object] | None = None,
    meeting: int | None = None,
    file: Path | None = None,
) -> Iterator[None]:
    """The default process group for as long as the block runs; none for one process.

    gloo carries what is on the CPU (flags, objects), so that nothing waits for a GPU to agree with the others; NCCL
    what is on GPUs.

    Args:
        processes: this process's rank, and how many there are.
        device: its device.
        timeout_seconds: how long a collective waits for the other processes.
        ends_itself: whether a thread ends this process, with the line, when it waits for one that is lost, and an
            error leaves the group without waiting for the others (:func:`ending.end_process` then ends the process);
            otherwise the collective raises. None: where the backend raises nothing, as NCCL, and there is nothing else
            to do.
        is_stopped: whether a signal has asked this process to stop; asked by that thread.
        when_in_vain: what frees the main thread from a group that is over, where the others go on without it. A thread
            of its own does it on CPUs, and that thread instead of ending the process on GPUs.
        meeting: the number of the meeting that decided on these processes (membership.py), of whom some may have been
            in more groups than others; None: all have been in the same ones.
        file: through which the group finds a store of its own, that of its process 0; None: as the launcher says.

    Raises:
        LostProcessError: one of them hangs or is gone; it is named.
        StuckError: after an error NCCL does not let go of this process, which is to end by :func:`ending.end_process`.
        UserError: the processes do not find each other.
    """
    on_gpu = device.type == "cuda"
    begin_group()
    if on_gpu:
        torch.cuda.set_device(device)
    if processes.count == 1:
        yield
        return
    if ends_itself is None:
        ends_itself = on_gpu and when_in_vain is None
    raises = not (ends_itself or on_gpu)
    timeout = timedelta(seconds=timeout_seconds)
    # Where the guard looks at the timeout, the backend's own watchdog comes second.
    patience = timeout if raises else timeout + timedelta(minutes=1)
    if on_gpu:
        _leave_judgement_to_guard()
    progress.begin()
    name = str(next(_numbers)) if meeting is None else f"of meeting {meeting}"
    with ExitStack() as stack:
        store = stack.enter_context(_store(processes, timeout, meeting, file))
        keep_connections_of(store.port)
        lost = stack.enter_context(_lost_processes(store, f"heartbeats {name}", processes, timeout_seconds))
        stack.enter_context(_group_ended(abandoned_at_errors=ends_itself))
        stack.enter_context(patience_of_groups(patience))
        stack.enter_context(lost.named())
        if not raises or when_in_vain is None:
            instead = None if ends_itself else when_in_vain or _free_main_thread
            end_when_waiting_in_vain(lost, device, is_stopped, instead, raises=raises)
        check_interface()
        with connections_noted():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=PrefixStore(f"group {name}", store),
                rank=processes.rank,
                world_size=processes.count,
                timeout=min(patience, _TO_FORM) if meeting else patience,
            )
        if meeting:
            compat.set_timeout(patience, dist.group.WORLD)
        if on_gpu:
            refuse_shared_gpus(device)
        _open.append(stack)
        try:
            yield
        finally:
            _open.remove(stack)


@contextmanager
def _store(processes: Processes, timeout: timedelta, meeting: int | None, file: Path | None) -> Iterator[TCPStore]:
    """Of the group's own, where ``file`` is given: after a meeting whoever does not find it has lost its holder.

    Raises:
        LostProcessError: that.
        UserError: as :func:`meeting_point`.
    """
    with ExitStack() as stack:
        point = meeting_point(
            processes.rank, processes.count, _TO_FORM if meeting and file else max(timeout, SHORTEST), file
        )
        try:
            store = stack.enter_context(point)
        except UserError as error:
            raise (LostProcessError(str(error)) if meeting and file else error) from None
        yield store


def first_goes_on() -> bool:
    """End the group, all processes together, and say whether this is process 0.

    Every process calls it where the rest is process 0's alone: in a group the others would wait for it, with their
    GPUs, and longer perhaps than a collective may take.
    """
    is_first = process_rank() == 0
    if _open:
        _open[-1].close()
    return is_first


def _free_main_thread() -> None:
    """From gloo, in which it may wait for its timeout though the connection is broken (waits.py)."""
    break_off()
    end_waits(_SECONDS_TO_BREAK)


def _leave_judgement_to_guard() -> None:
    """torch's watchdog of NCCL would end the process by an abort and a C++ stack, without saying who is lost.

    1 is what torchrun sets where the user has set nothing. Where it only notes an error, it still sleeps four times as
    long as a dump of its records may take, and its monitor minutes: the end of a group waits for both.
    """
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
    os.environ.setdefault("TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC", "250")
    name, by_torchrun = "TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCHELASTIC_RUN_ID" in os.environ
    if name not in os.environ or (by_torchrun and os.environ[name] == "1"):
        os.environ[name] = "0"


@contextmanager
def _lost_processes(store: TCPStore, name: str, processes: Processes, timeout_seconds: int) -> Iterator[LostProcesses]:
    held_by_first = first_holds_store()
    try:
        heartbeats = HeartbeatStore(store, name, is_here=held_by_first and processes.is_first)
    except dist.DistError as error:
        raise UserError("the store where the processes met is gone: see the log of process 0") from error
    lost = LostProcesses(heartbeats, processes.rank, processes.count, timeout_seconds, held_by_first=held_by_first)
    try:
        yield lost
    finally:
        lost.leave()


@contextmanager
def _group_ended(*, abandoned_at_errors: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if dist.is_initialized():
            if abandoned_at_errors:
                abandon_group(dist.distributed_c10d._abort_process_group)
            else:
                _free_main_thread()
                if not end_abort(_SECONDS_TO_ABORT):
                    abandon_group(dist.destroy_process_group)
                    raise StuckError(
                        f"NCCL could not be aborted in {_SECONDS_TO_ABORT:.0f} s after another process was lost"
                    ) from None
                dist.destroy_process_group()
        raise
    if dist.is_initialized():
        dist.destroy_process_group()
