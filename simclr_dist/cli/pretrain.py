"""``simclr-dist pretrain``: the run, and how it ends, under SLURM and without."""

import signal
from typing import Any

import click

from simclr_dist.cli.options import with_config, with_debug
from simclr_dist.config import Config, load_config
from simclr_dist.config.loading import refuse_pipe
from simclr_dist.config.machine import GO_ON
from simclr_dist.distributed.launchers import job_here, rank_here
from simclr_dist.errors import UserError
from simclr_dist.launch.relaunch import relaunch_checked, stop_with_launcher
from simclr_dist.launch.slurm import scheduler
from simclr_dist.launch.slurm.batch_script import REQUEUE_STATUS
from simclr_dist.log import log, log_to_terminal
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.run.moved_folder import refuse_moved
from simclr_dist.stop_signals import hold_notices
from simclr_dist.terminal import say, typed


@click.command()
@with_config
@click.option("--processes", type=click.IntRange(min=1), help="Start this many processes on this machine.")
@click.option("--debug-numerics", is_flag=True, help="Name the first layer that is not finite; slow.")
@with_debug
def pretrain(config: str, overrides: tuple[str, ...], processes: int | None, debug_numerics: bool) -> int:
    """Pretrain an encoder, or resume the run that stands in machine.run_dir.

    Alone it is one process; under torchrun (`torchrun --nproc-per-node N -m simclr_dist pretrain ...`) it is one of
    those; --processes N starts them itself.
    """
    hold_notices()
    if rank_here() == 0:
        log_to_terminal()
    overrides += ("machine.debug_numerics=true",) if debug_numerics else ()
    with said_when_slow(f"{config}: starting", write=log.info, active=rank_here() == 0):
        loaded = load_config(config, overrides)
        refuse_moved(config, overrides, loaded.machine.run_dir)
        from simclr_dist.distributed.processes import Processes

        if not (processes and processes > 1):
            stop_with_launcher()
            from simclr_dist.training.pretraining import pretrain as run
    if processes and processes > 1:
        refuse_pipe(config)
        goes_on = loaded.machine.on_lost_process == GO_ON
        return relaunch_checked(processes, loaded, ["pretrain", "--", config, *overrides], goes_on=goes_on)

    here = Processes.from_environment()
    outcome = run(loaded, here, scheduler.has_ended)
    status = _report(outcome, loaded)
    if loaded.machine.on_lost_process == GO_ON and (job := job_here()):
        from simclr_dist.distributed.rendezvous import leave_status

        leave_status(status, is_first=outcome.is_first)
        if outcome.is_first and status != REQUEUE_STATUS and scheduler.first_node_is_lost(job):
            end_by_last_process(job)
    return status


def end_by_last_process(job: str) -> None:
    """End a job whose batch script is gone with its node: SLURM would keep it until its time is over."""
    # Said first: scancel ends this process too.
    say(f"job {job} is ended by its last process: its first node was lost, and its batch script with it")
    try:
        scheduler.cancel([job])
    except UserError as refused:
        say(f"job {job} is not ended: {refused}; end it with: scancel {job}", err=True)


def _report(outcome: Any, config: Config) -> int:
    run_dir, finished = config.machine.run_dir, outcome.steps_done == outcome.total_steps
    job = job_here()
    if not outcome.is_first:
        # SLURM ends a job when one of its processes fails: not before process 0 may have put it back into the queue.
        return 128 + outcome.signal if outcome.signal and not job else 0
    if finished:
        say(f"finished: {outcome.steps_done} steps; evaluate with: {typed('evaluate', run_dir)}")
        return 0
    why = f" by {signal.Signals(outcome.signal).name}" if outcome.signal else ""
    stopped = f"stopped{why} after step {outcome.steps_done} of {outcome.total_steps}, saved in {run_dir}"
    if job and outcome.signal and scheduler.should_requeue(job, outcome.signal):
        say(f"{stopped}; job {job} goes back into the queue and resumes from there")
        if why := scheduler.requeue_if_possible(job):
            say(f"job {job} is not in the queue yet: {why}; the batch script asks again", err=True)
        return int(REQUEUE_STATUS)
    if outcome.signal:
        say(f"{stopped}; start the same command again to resume")
    else:
        key = "machine.stop_after_steps"
        say(f"{stopped}, as {key}={config.machine.stop_after_steps} says; raise it, or set {key}=0, to resume")
    return 128 + outcome.signal if outcome.signal else 0
