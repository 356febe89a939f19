"""A run from its beginning to its end: what every process of it calls."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from simclr_dist.config import Config
from simclr_dist.config.machine import GO_ON
from simclr_dist.distributed.cores import own_cores
from simclr_dist.distributed.devices import choose_device
from simclr_dist.distributed.joining import Place, place_in
from simclr_dist.distributed.launchers import LOCAL, SRUN, launcher_here
from simclr_dist.distributed.membership import Membership
from simclr_dist.distributed.nccl import warn_of_nvls
from simclr_dist.distributed.processes import Processes, process_group
from simclr_dist.distributed.rendezvous import launchers_store, start_of_step
from simclr_dist.errors import UserError
from simclr_dist.guards.same_config import refuse_to_join
from simclr_dist.log import log
from simclr_dist.models.kernels import set_kernels
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.run.lock import RunLock
from simclr_dist.run.writing import writing
from simclr_dist.stop_signals import StopSignals
from simclr_dist.training.agreed import say_received
from simclr_dist.training.opened import open_images
from simclr_dist.training.outcome import Outcome
from simclr_dist.training.preflight import check_machine, fits
from simclr_dist.training.standing import Ground
from simclr_dist.training.survivors import Survivors
from simclr_dist.training.trainer import Trainer

_SECONDS_TO_COME = 30  # to a meeting, at least: a process first finds out what its collective failed of


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
    place = _place(config, processes)

    def say(name: str) -> None:
        if places[-1].is_first:
            say_received(name)

    with ExitStack() as stack:
        # Under SLURM the end of a start that is preempted is SLURM's: the job is queued again.
        stop = stack.enter_context(StopSignals(say, ends_before_begin="SLURM_JOB_ID" not in os.environ))
        lock = RunLock(machine.run_dir, job_has_ended)
        when_in_vain: Callable[[], object] | None = None

        @contextmanager
        def group(here: Processes, number: int | None = None) -> Iterator[None]:
            meeting = f"waiting for {here.count} processes to meet"
            with ExitStack() as left:
                with said_when_slow(meeting, write=log.info, active=here.is_first):
                    made = process_group(
                        here, device, machine.collective_timeout_seconds,
                        is_stopped=lambda: stop.has_arrived, when_in_vain=when_in_vain, meeting=number,
                        file=place.store.folder / f"store_of_group_{number}" if place else None,
                    )  # fmt: skip
                    left.enter_context(made)
                yield

        def train(here: Processes, ground: Ground | None = None) -> Outcome:
            places.append(here)
            cores = own_cores()
            torch.set_num_threads(machine.threads_per_process or cores)
            return Trainer(config, here, device, lock, cores=cores, ground=ground).train(stop)

        if machine.on_lost_process == GO_ON and (place.processes if place else processes.count) > 1:
            membership = stack.enter_context(_membership(config, processes, device, lock, place))
            when_in_vain = membership.break_group
            refuse_to_join(config, lambda own: membership.first("config", own))
            stack.enter_context(lock)

            def train_on(here: Processes, ground: Ground) -> Outcome:
                lock.colleagues = set(membership.cards())  # of which the one that held the folder is out by agreement
                return train(here, ground)

            ground = Ground(is_guest=bool(place and place.is_guest))
            outcome = Survivors(membership, group, train_on, lambda: open_images(config, device, 1), ground).run(
                processes
            )
            if place and outcome.is_first:  # and holds the folder's lock: no other start is at it
                place.store.remove_others()
            return outcome
        stack.enter_context(group(processes))
        stack.enter_context(lock)
        return train(processes)


def _place(config: Config, processes: Processes) -> Place | None:
    """Of this process among those of a run that agree in its folder on who goes on; None where they do not.

    Raises:
        UserError: the run folder cannot be written, or no place is free.
    """
    launcher = launcher_here()
    if config.machine.on_lost_process != GO_ON or launcher is None or launcher.name != SRUN:
        return None
    folder = Path(config.machine.run_dir)
    with writing(folder):
        return place_in(folder, start_of_step(), processes.rank, processes.count)


def _membership(
    config: Config, processes: Processes, device: torch.device, lock: RunLock, place: Place | None
) -> Membership:
    """
    Raises:
        UserError: these processes cannot go on without each other.
    """
    key = "machine.on_lost_process: go_on"
    if device.type == "cuda" and processes.is_first:
        log.warning("%s: was never run on several GPUs (docs/design/survivors.md)", key)
    try:
        check_machine(config, 1)
    except UserError as error:
        raise UserError(f"{key}: the last process could not go on alone: {error}") from error
    patience = max(config.machine.collective_timeout_seconds, _SECONDS_TO_COME)
    if place is None and LOCAL not in os.environ:
        launcher = launcher_here()
        raise UserError(
            f"{key}: {launcher.name if launcher else 'the launcher'} does not leave the others alone when one is lost; "
            "start them with srun --kill-on-bad-exit=0, or on one machine with `simclr-dist pretrain ... "
            "--processes N`, or set machine.on_lost_process=stop"
        )
    store = place.store if place else launchers_store(patience)
    identity, count = (place.identity, place.processes) if place else (processes.rank, processes.count)
    return Membership(store, identity, count, lock.owner.token, patience, lambda n: fits(config, n))
