"""Whole runs of several processes of which some are killed on the way, and the runs that they must equal to the bit."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from launch.local import loopback_store
from simclr_dist.config import Config
from simclr_dist.distributed import run_store
from simclr_dist.distributed.launchers import LOCAL
from simclr_dist.distributed.membership import Membership
from simclr_dist.distributed.processes import Processes
from simclr_dist.distributed.run_store import Pace, RunStore
from simclr_dist.distributed.watchdog import monitor, progress
from simclr_dist.evaluation.online import OnlineEvaluation
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.run.writer import Saver
from simclr_dist.training import step, trainer
from simclr_dist.training.outcome import Outcome
from simclr_dist.training.pretraining import pretrain
from tests.support.cut_network import CutNetwork, enter_node
from tests.support.pretended_gpu import pretended_gpu
from tests.support.processes import Running, pretrain_here, run_distributed, wait_for_step


class Death(NamedTuple):
    """When a process kills itself."""

    step: int
    moment: str
    """A key of :data:`MOMENTS`, or the label of a collective."""


MOMENTS: dict[str, tuple[Any, str]] = {
    "loading": (trainer, "next_batch"),
    "forward": (step, "compute_gradients"),
    "update": (step, "average_running_statistics"),  # after the optimizer's, before the running statistics'
    "after the update": (step.TrainingStep, "after_update"),
    "saving": (Saver, "_write"),
    "look": (OnlineEvaluation, "after_step"),
}
"""Name -> the object and the name of the function in which the process dies."""


def run_with_losses(
    config: Config,
    count: int,
    deaths: dict[int, Death],
    fate: signal.Signals = signal.SIGKILL,
    *,
    back_before: int | None = None,
) -> dict[int, Outcome | str]:
    """The run, in ``count`` processes; how it ended in each that was not killed, or the error's message.

    With ``fate`` SIGSTOP they go on when all others have ended. ``back_before``: a step for which those that were
    killed are back; they begin again once the others have gone on.
    """
    store = loopback_store()
    records = RunStore(store)
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        LOCAL: str(os.getpid()),
    }  # fmt: skip

    def start(rank: int, death: Death | None) -> Running:
        return Running(1, _member, shared, rank, count, config, death, fate, back_before)

    running = [start(rank, deaths.get(rank)) for rank in range(count)]
    ended: set[int] = set()
    metrics = Path(config.machine.run_dir) / "metrics.jsonl"
    stopped = {rank for rank in deaths if fate != signal.SIGKILL}
    while len(ended | stopped) < count:
        for rank, each in enumerate(running):
            if rank not in ended and not each.processes[0].is_alive():
                ended.add(rank)
                records.end_of(rank)
            killed = running[rank].processes[0].exitcode
            if back_before and killed and rank in ended and read_metrics(metrics)[-1]["processes"] < count:
                running[rank] = start(rank, None)
                records.begins_again(rank)
                ended.remove(rank)
        time.sleep(0.02)
    for rank in stopped:
        os.kill(running[rank].processes[0].pid or 0, signal.SIGCONT)
    killed = {rank for rank, death in deaths.items() if rank not in stopped and running[rank].processes[0].exitcode}
    return {rank: each.results()[0] for rank, each in enumerate(running) if rank not in killed}


def run_on_two_nodes(config: Config, sides: list[int], network: CutNetwork, step: int) -> list[Outcome | str]:
    """The run under a pretended srun, a process on each side of ``sides``, the link being cut once ``step`` is done."""
    count = len(sides)
    shared = {
        "SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_TASKS_PER_NODE": str(count), "SLURM_JOB_ID": "12",
        "SLURM_STEP_ID": "0",
    }  # fmt: skip
    running = []
    for rank, side in enumerate(sides):
        of_rank = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), **network.environment(side)}
        running.append(Running(1, _member, shared | of_rank, rank, count, config, None, signal.SIGKILL, None))
    wait_for_step(Path(config.machine.run_dir), step, running[0])
    network.cut()
    return [each.results()[0] for each in running]


def _member(
    shared: dict[str, str],
    rank: int,
    count: int,
    config: Config,
    death: Death | None,
    fate: signal.Signals,
    back_before: int | None,
) -> Any:
    os.environ.update(shared)
    enter_node()
    run_store._OF_FOLDER = Pace(beat=0.1, look=0.05, silent=3.0)
    monitor._OBSERVED_SECONDS = 0.75
    Membership.grows = _once_others_are_back(Membership.grows, back_before)
    if death:
        _will_die(death, fate)
    with pretended_gpu(count) if config.machine.device == "cuda" else nullcontext():
        try:
            return pretrain(config, Processes(rank, count, rank, count))
        except ValueError as error:
            return str(error)


def _once_others_are_back(grows: Callable[[Membership], bool], step: int | None) -> Callable[[Membership], bool]:
    """Whoever is the first begins ``step`` when it knows that more processes could take part."""

    def patiently(self: Membership) -> bool:
        is_first = self.identity == self._watch.members[0]
        while (
            is_first
            and progress.current().step == step
            and len(self._watch.members) < self.count
            and not self._watch.can_grow
        ):
            time.sleep(0.02)
        return grows(self)

    return patiently


def _will_die(death: Death, fate: signal.Signals) -> None:
    def at(function: Callable[..., Any], *_: str) -> Callable[..., Any]:
        def dying(*arguments: Any, **named: Any) -> Any:
            # A thread saves while the step goes on.
            if (arguments[-1] if death.moment == "saving" else progress.current().step) == death.step:
                os.kill(os.getpid(), fate)
            return function(*arguments, **named)

        return dying

    if death.moment in MOMENTS:
        place, name = MOMENTS[death.moment]
        setattr(place, name, at(getattr(place, name)))
    else:
        from simclr_dist.distributed import collectives

        begin = collectives.begin_collective

        def begin_collective(label: str) -> None:
            if label == death.moment and progress.current().step == death.step:
                os.kill(os.getpid(), fate)
            begin(label)

        collectives.begin_collective = begin_collective


def resized_through_checkpoints(run: Path, config: Config, folder: Path) -> Path:
    """The run folder of the same recipe, stopped and resumed wherever ``run`` went on with other processes."""
    lines = read_metrics(run / "metrics.jsonl")
    machine = replace(config.machine, run_dir=str(folder), on_lost_process="stop")
    for processes, of_them in groupby(lines, key=lambda line: int(line["processes"])):
        until = int(list(of_them)[-1]["step"])
        run_distributed(processes, pretrain_here, replace(config, machine=replace(machine, stop_after_steps=until)))
    return folder
