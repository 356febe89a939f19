"""A run from its beginning to its end: what every process of it calls."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch

from simclr_dist.config import Config
from simclr_dist.config.machine import GO_ON
from simclr_dist.distributed.cores import own_cores
from simclr_dist.distributed.devices import choose_device
from simclr_dist.distributed.launchers import LOCAL
from simclr_dist.distributed.membership import Membership
from simclr_dist.distributed.nccl import warn_of_nvls
from simclr_dist.distributed.processes import Processes, process_group
from simclr_dist.distributed.rendezvous import launchers_store
from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.models.kernels import set_kernels
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.run.lock import RunLock
from simclr_dist.stop_signals import StopSignals
from simclr_dist.training.agreed import say_received
from simclr_dist.training.opened import open_images
from simclr_dist.training.preflight import check_machine, fits
from simclr_dist.training.standing import Ground
from simclr_dist.training.survivors import Survivors
from simclr_dist.training.trainer import Outcome, Trainer


def pretrain(config: Config, processes: Processes, job_has_ended: Callable[[str], bool] = lambda job: False) -> Outcome:
    """Run, or go on with, the run in machine.run_dir; every process of the run calls this.

    ``job_has_ended`` says of a SLURM job that holds the run folder whether it is known to be over.

    Raises:
        UserError: the machine cannot compute the recipe, the data cannot be read, the folder is in use or holds
            another recipe's run, too many images are broken, the loss is not finite.
        LostProcessError: another process is lost, and the run does not go on without it.
    """
    machine = config.machine
    check_machine(config, processes.count)
    device = choose_device(machine.device, processes.local_rank)
    set_kernels(deterministic=machine.deterministic, precision=machine.precision)
    if processes.is_first and processes.count > 1 and device.type == "cuda" and machine.deterministic:
        warn_of_nvls()
    places = [processes]

    def say(name: str) -> None:
        if places[-1].is_first:
            say_received(name)

    with ExitStack() as stack:
        # Under SLURM the end of a start that is preempted is SLURM's: the job is queued again.
        stop = stack.enter_context(StopSignals(say, ends_before_begin="SLURM_JOB_ID" not in os.environ))
        lock = RunLock(machine.run_dir, job_has_ended)

        @contextmanager
        def group(here: Processes, number: int | None = None) -> Iterator[None]:
            meeting = f"waiting for {here.count} processes to meet"
            with ExitStack() as left:
                with said_when_slow(meeting, write=log.info, active=here.is_first):
                    made = process_group(
                        here, device, machine.collective_timeout_seconds,
                        is_stopped=lambda: stop.has_arrived, meeting=number,
                    )  # fmt: skip
                    left.enter_context(made)
                yield

        def train(here: Processes, ground: Ground | None = None) -> Outcome:
            places.append(here)
            cores = own_cores()
            torch.set_num_threads(machine.threads_per_process or cores)
            return Trainer(config, here, device, lock, cores=cores, ground=ground).train(stop)

        if machine.on_lost_process == GO_ON and processes.count > 1:
            membership = stack.enter_context(_membership(config, processes, device, lock))
            stack.enter_context(lock)

            def train_on(here: Processes, ground: Ground) -> Outcome:
                lock.colleagues = set(membership.cards())  # of which the one that held the folder is out by agreement
                return train(here, ground)

            return Survivors(membership, group, train_on, lambda: open_images(config, device, 1)).run(processes)
        stack.enter_context(group(processes))
        stack.enter_context(lock)
        return train(processes)


def _membership(config: Config, processes: Processes, device: torch.device, lock: RunLock) -> Membership:
    """
    Raises:
        UserError: these processes cannot go on without each other.
    """
    key = "machine.on_lost_process: go_on"
    if device.type != "cpu":
        raise UserError(f"{key}: was not made for GPUs yet; set machine.on_lost_process=stop or machine.device=cpu")
    if LOCAL not in os.environ:
        raise UserError(
            f"{key}: the launcher of these processes ends all when one is lost; start them with `simclr-dist pretrain "
            "... --processes N`, or set machine.on_lost_process=stop"
        )
    patience = config.machine.collective_timeout_seconds
    store = launchers_store(patience)
    return Membership(store, processes.rank, processes.count, lock.owner.token, patience, lambda n: fits(config, n))
