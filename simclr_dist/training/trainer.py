"""The training loop. It knows no particular method: the seam is :class:`simclr_dist.methods.base.Method`."""

import os
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import NoReturn

import torch

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.broken import BrokenImages
from simclr_dist.data.loading.ffcv_steps import load_views
from simclr_dist.data.loading.one_ahead import on_device
from simclr_dist.data.loading.order import build_order
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.data.sources.shards.settings import use_shard_settings
from simclr_dist.data.sources.summary import summary
from simclr_dist.distributed.agreement import all_or_none
from simclr_dist.distributed.collectives import gather_objects, maximum
from simclr_dist.distributed.cores import own_cores, worker_count
from simclr_dist.distributed.devices import choose_device
from simclr_dist.distributed.nccl import warn_of_nvls
from simclr_dist.distributed.processes import Processes, process_group
from simclr_dist.distributed.watchdog import progress
from simclr_dist.errors import AgreedError
from simclr_dist.evaluation.online import OnlineEvaluation
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.guards.health_bands import HealthCheck
from simclr_dist.guards.replicas import DriftCheck
from simclr_dist.guards.same_config import refuse_other_configs
from simclr_dist.log import log
from simclr_dist.models.kernels import set_kernels
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.run.console import Reporter
from simclr_dist.run.folder import RunFolder
from simclr_dist.run.lock import RunLock
from simclr_dist.stop_signals import StopSignals
from simclr_dist.training.agreed import Agreed, next_batch, say_received
from simclr_dist.training.peak_memory import PeakMemory
from simclr_dist.training.preflight import check_machine
from simclr_dist.training.start import Start
from simclr_dist.training.step import StoppedByAnomalyError, TrainingStep


@dataclass(frozen=True)
class Outcome:
    """How a call of :func:`pretrain` ended."""

    steps_done: int
    total_steps: int
    signal: int | None = None
    """The signal that stopped it, if one did."""


def pretrain(config: Config, processes: Processes, job_has_ended: Callable[[str], bool] = lambda job: False) -> Outcome:
    """Run, or go on with, the run in machine.run_dir; every process of the run calls this.

    ``job_has_ended`` says of a SLURM job that holds the run folder whether it is known to be over.

    Raises:
        UserError: the machine cannot compute the recipe, the data cannot be read, the folder is in use or holds
            another recipe's run, too many images are broken, the loss is not finite.
    """
    check_machine(config, processes.count)
    device = choose_device(config.machine.device, processes.local_rank)
    set_kernels(deterministic=config.machine.deterministic, precision=config.machine.precision)
    if processes.is_first and processes.count > 1 and device.type == "cuda" and config.machine.deterministic:
        warn_of_nvls()
    say = say_received if processes.is_first else lambda name: None
    meeting = f"waiting for {processes.count} processes to meet"
    with ExitStack() as stack:
        # Under SLURM the end of a start that is preempted is SLURM's: the job is queued again.
        stop = stack.enter_context(StopSignals(say, ends_before_begin="SLURM_JOB_ID" not in os.environ))
        patience = config.machine.collective_timeout_seconds
        with said_when_slow(meeting, write=log.info, active=processes.is_first):
            stack.enter_context(process_group(processes, device, patience, is_stopped=lambda: stop.has_arrived))
        lock = stack.enter_context(RunLock(config.machine.run_dir, job_has_ended))
        cores = own_cores()
        torch.set_num_threads(config.machine.threads_per_process or cores)
        return Trainer(config, processes, device, lock, cores=cores).train(stop)


class Trainer:
    """A run: its objects, restored from the newest checkpoint of the run folder, and the loop over its steps."""

    def __init__(
        self,
        config: Config,
        processes: Processes,
        device: torch.device,
        lock: RunLock | None = None,
        *,
        cores: int = 1,
    ) -> None:
        """``cores`` are this process's own, for loader workers where the config gives no number."""
        recipe, machine = config.recipe, config.machine
        self.config, self.processes, self.device = config, processes, device
        self.cores = cores
        refuse_other_configs(config)
        use_shard_settings(machine.shards)
        opening = f"opening the images of recipe.data ({recipe.data.source} {recipe.data.path})"
        with said_when_slow(opening, write=log.info, active=processes.is_first), all_or_none():
            self.source = open_for_pretraining(recipe)
            self.order = build_order(recipe, self.source)
            self.online = OnlineEvaluation(recipe, machine, self.order.steps_per_epoch, device, cores=cores)
        self.folder = RunFolder(config, self.source, lock)
        self.schedule = build_schedule(recipe, self.order)
        steps = (self.schedule.total_steps, self.order.steps_per_epoch)
        self.health = HealthCheck(self.folder.path, config, *steps, active=processes.is_first)
        collapse = next((each for each in config.metrics.items() if each[1].role == "collapse"), None)
        anomalies = AnomalyWatch(
            recipe.anomalies, self.folder.path, self.schedule.warmup_steps, collapse, active=processes.is_first
        )
        self.step = TrainingStep(
            config, processes, device, self.schedule, self.order.steps_per_epoch, len(self.source), anomalies
        )
        self.steps_done = self.folder.restore(self.step.state, Start(recipe, self.step))
        self.drift = DriftCheck(
            machine.compare_every_steps, self.order, self.folder.images, self.step.method, self.step.optimizer
        )
        # Before DDP gives all processes rank 0's weights, which would hide that theirs differ.
        self.drift.begin(self.steps_done, self.folder.last_checkpoint)
        self.step.make_parallel()

    def train(self, stop: StopSignals) -> Outcome:
        """Walk the steps that are left; save as asked, at the end, and when stopped."""
        machine, total = self.config.machine, self.schedule.total_steps
        until = min(total, machine.stop_after_steps or total)
        stop.has_begun = True
        broken = BrokenImages(self.folder.path, len(self.source), machine.max_broken_image_share)
        peak = PeakMemory(self.device, active=self.processes.is_first)
        signal = 0
        if self.processes.is_first:
            log.info("%s", summary(self.source, self.config.recipe.data.source))
            log.info("step %d of %d, %d processes, %s", self.steps_done, total, self.processes.count, self.device.type)
            if machine.compile and machine.debug_numerics:
                log.warning("machine.compile: nothing is compiled, as machine.debug_numerics looks at every layer")
            log.info("making the first batch; at the first start on a machine the loops that do it are compiled")
        with (
            closing(self._loader(until, stop)) as batches,
            Reporter(
                self.folder.path,
                self.config.metrics,
                self.steps_done,
                total,
                active=self.processes.is_first,
                tracking=machine.tracking,
            ) as reporter,
            closing(self.folder),
        ):
            self.folder.begin(reporter.sync)
            self.step.anomalies.begin()
            self.health.begin(self.steps_done, self.online.every_steps)
            while self.steps_done < until and not signal:
                progress.begin_step(self.steps_done + 1)
                started = time.perf_counter()
                batch, failure = next_batch(batches)
                waited = time.perf_counter() - started
                agreed = self._agreed(stop, batch, waited)
                signal = int(agreed.signal)
                if agreed.run_is_lost:
                    raise AgreedError(self.folder.lock.loss())
                self.folder.check_saves(agreed.failed_saves)
                if batch is None or agreed.no_batch:
                    self._stop_if_failed(failure)
                    break
                if agreed.broken:
                    self._note(broken, batch)
                try:
                    values = self.train_step(batch)
                except StoppedByAnomalyError as stopped:
                    self._stop(str(stopped))
                self.steps_done += 1
                peak.after_step()
                self.drift.after_step(self.steps_done, self.folder.last_checkpoint)
                numbers = self._numbers(values, time.perf_counter() - started, waited=agreed.waited)
                evaluated = self.online.after_step(self.steps_done, self.step.method.encoder)
                reporter.step(numbers | evaluated)
                self.health.after_step(self.steps_done)
                if self.folder.is_due(self.steps_done, evaluated):
                    self.drift.compare(self.steps_done, self.folder.last_checkpoint)
                    self.folder.begin_save(self.step.state, self.steps_done)
            self.drift.compare(self.steps_done, self.folder.last_checkpoint)
            self.folder.finish_save(self.step.state, self.steps_done)
            if self.processes.is_first:
                broken.tell_count()
        return Outcome(self.steps_done, total, signal)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """The next step of the recipe, as :class:`TrainingStep` does it."""
        return self.step(batch, self.steps_done)

    def _agreed(self, stop: StopSignals, batch: Batch | None, waited: float) -> Agreed:
        own = Agreed(
            signal=stop.received or 0,
            broken=len(batch.broken) if batch else 0,
            waited=waited,
            failed_saves=self.folder.failed_saves,
            run_is_lost=float(self.folder.lock.is_lost),
            no_batch=float(batch is None),
        )
        return Agreed(*maximum(list(own)))

    def _loader(self, until: int, stop: StopSignals) -> Generator[Batch, None, None]:
        processes, machine = self.processes, self.config.machine
        batches = build_batches(self.config, self.source, self.order, processes.rank, processes.count)
        loaded = load_views(
            batches,
            range(self.steps_done, until),
            workers=worker_count(machine.loader_workers, self.cores),
            pin_memory=self.device.type == "cuda",
            is_stopped=lambda: stop.received,
            # Before the other processes give this one up: so that all save together.
            timeout_seconds=min(
                machine.batch_timeout_seconds,
                0.9 * machine.collective_timeout_seconds if processes.count > 1 else machine.batch_timeout_seconds,
            ),
        )
        return on_device(loaded, self.device)

    def _note(self, broken: BrokenImages, batch: Batch) -> None:
        for met in gather_objects(batch.broken):
            broken.note(met, write=self.processes.is_first)
        if complaint := broken.too_many():
            self._stop(complaint)

    def _stop_if_failed(self, failure: str | None) -> None:
        for complaint in gather_objects(failure, label="why there is no batch"):
            if complaint:
                self._stop(complaint)

    def _stop(self, complaint: str) -> NoReturn:
        """End the run, with the state saved, for what all processes have found together."""
        self.drift.compare(self.steps_done, self.folder.last_checkpoint)
        # Where the last update has spoilt it the checkpoint before is better.
        if self.steps_done and self.step.is_finite():
            self.folder.finish_save(self.step.state, self.steps_done)
        raise AgreedError(f"{complaint}; {self.folder.last_checkpoint()}")

    def _numbers(self, values: dict[str, float], seconds: float, waited: float) -> dict[str, float]:
        return {
            "step": self.steps_done,
            "epoch": self.order.epoch(self.steps_done - 1) + 1,
            **values,
            "images_per_second": self.config.recipe.global_batch_images / seconds,
            "data_wait_share": waited / seconds,
            "step_seconds": seconds,
        }
