"""The training loop. It knows no particular method: the seam is :class:`simclr_dist.methods.base.Method`."""

import time
from collections.abc import Generator
from contextlib import closing
from typing import NoReturn

import torch

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.broken import BrokenImages
from simclr_dist.data.sources.summary import summary
from simclr_dist.distributed.agreement import all_or_none
from simclr_dist.distributed.collectives import gather_objects, maximum
from simclr_dist.distributed.nccl import settle
from simclr_dist.distributed.processes import Processes
from simclr_dist.distributed.watchdog import progress
from simclr_dist.errors import AgreedError
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.guards.health_bands import HealthCheck
from simclr_dist.guards.replicas import DriftCheck
from simclr_dist.guards.same_config import refuse_other_configs
from simclr_dist.log import log
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.run.console import Reporter
from simclr_dist.run.folder import RunFolder
from simclr_dist.run.lock import RunLock
from simclr_dist.stop_signals import StopSignals
from simclr_dist.training.agreed import Agreed, next_batch
from simclr_dist.training.batches_here import batches_here
from simclr_dist.training.opened import open_images
from simclr_dist.training.outcome import Outcome
from simclr_dist.training.peak_memory import PeakMemory
from simclr_dist.training.standing import Gap, Ground, LeftError, MoreProcessesError, Origin, Standing
from simclr_dist.training.start import Start
from simclr_dist.training.step import StoppedByAnomalyError, TrainingStep


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
        ground: Ground | None = None,
    ) -> None:
        """
        Args:
            cores: this process's own, for loader workers where the config gives no number.
            ground: where the run goes on when a process is lost; None: it ends then.
        """
        recipe, machine = config.recipe, config.machine
        self.config, self.processes, self.device = config, processes, device
        self.cores = cores
        self.ground = ground or Ground()
        kept = self.ground.kept
        if kept:  # a process that has come since has not read the weights
            recipe.initial.sha256 = recipe.initial.sha256 or kept.origin.initial_sha256
        refuse_other_configs(config)
        with all_or_none():
            opened = self.ground.opened or open_images(config, device, cores, say=processes.is_first)
        self.source, self.order, self.online = opened
        self.folder = RunFolder(config, self.source, lock, kept.origin.images if kept else None)
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
        self.steps_done = self._restored()
        self.drift = DriftCheck(
            machine.compare_every_steps, self.order, self.folder.images, self.step.method, self.step.optimizer
        )
        # Before DDP gives all processes rank 0's weights, which would hide that theirs differ.
        self.drift.begin(self.steps_done, self.folder.last_checkpoint)
        self.step.make_parallel()
        self.standing = None
        if ground:
            most = 2 * machine.save_every_steps
            origin = Origin(self.folder.images, recipe.initial.sha256)
            settle(device)
            self.standing = ground.standing = Standing(self.step.state, self.steps_done, origin, ground.numbers, most)
            ground.opened = opened
        self.gap = Gap(self.ground.lost_at)

    def _restored(self) -> int:
        """The steps done, the state being that after them."""
        kept = self.ground.kept
        if not kept:
            return self.folder.restore(self.step.state, Start(self.config.recipe, self.step, self.folder))
        for name, target in self.step.state.items():
            target.load_state_dict(kept.states[name])
        self.folder.go_on_from(kept.step)
        return kept.step

    def train(self, stop: StopSignals) -> Outcome:
        """Walk the steps that are left; save as asked, at the end, and when stopped."""
        machine, total = self.config.machine, self.schedule.total_steps
        until = min(total, machine.stop_after_steps or total)
        stop.has_begun = True
        broken = BrokenImages(self.folder.path, len(self.source), machine.max_broken_image_share)
        peak = PeakMemory(self.device, active=self.processes.is_first)
        signal = 0
        self._announce()
        with (
            closing(self._batches(until, stop)) as batches,
            Reporter(
                self.folder.path,
                self.config.metrics,
                self.steps_done,
                total,
                active=self.processes.is_first,
                tracking=machine.tracking,
                known=self.ground.numbers,
            ) as reporter,
            closing(self.folder),
        ):
            self.folder.begin(reporter.sync, self.steps_done)
            if self.ground.kept:  # a save that a lost process had begun may be missing
                self.folder.save_unless_there(self.step.state, self.steps_done)
            self.step.anomalies.begin()
            self.health.begin(self.steps_done, self.online.every_steps)
            while self.steps_done < until and not signal:
                progress.begin_step(self.steps_done + 1)
                started = time.perf_counter()
                batch, failure = next_batch(batches)
                waited = time.perf_counter() - started
                if self.ground.is_guest and stop.received:
                    raise LeftError(Outcome(self.steps_done, total, stop.received, is_first=False))
                agreed = self._agreed(stop, batch, waited)
                signal = int(agreed.signal)
                if agreed.run_is_lost:
                    raise AgreedError(self.folder.lock.loss())
                self.folder.check_saves(agreed.failed_saves)
                if signal and self.steps_done:
                    break  # a step may take minutes, and a notice gives few
                if agreed.can_grow and not signal:
                    raise MoreProcessesError
                if batch is None or agreed.no_batch:
                    self._stop_if_failed(failure)
                    break
                if agreed.broken:
                    self._note(broken, batch)
                if self.standing:
                    self.standing.begin_step()
                try:
                    values = self.train_step(batch)
                except StoppedByAnomalyError as stopped:
                    self._stop(str(stopped))
                if self.standing:
                    settle(self.device)  # nothing is kept of a step that an abort may have cut
                self.steps_done += 1
                peak.after_step()
                self._finish_step(values, started, agreed.waited, reporter)
            self.drift.compare(self.steps_done, self.folder.last_checkpoint)
            self.folder.finish_save(self.step.state, self.steps_done)
            if self.processes.is_first:
                broken.tell_count()
        return Outcome(self.steps_done, total, signal, self.processes.is_first)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """The next step of the recipe, as :class:`TrainingStep` does it."""
        return self.step(batch, self.steps_done)

    def _announce(self) -> None:
        if not self.processes.is_first:
            return
        total, machine = self.schedule.total_steps, self.config.machine
        log.info("%s", summary(self.source, self.config.recipe.data.source))
        log.info("step %d of %d, %d processes, %s", self.steps_done, total, self.processes.count, self.device.type)
        if machine.compile and machine.debug_numerics:
            log.warning("machine.compile: nothing is compiled, as machine.debug_numerics looks at every layer")
        log.info("making the first batch; at the first start on a machine the loops that do it are compiled")

    def _finish_step(self, values: dict[str, float], started: float, waited: float, reporter: Reporter) -> None:
        """Look at what the step has made, tell its numbers, and save when it is time."""
        self.drift.after_step(self.steps_done, self.folder.last_checkpoint)
        numbers = self._numbers(values, time.perf_counter() - started, waited)
        evaluated = self.online.after_step(self.steps_done, self.step.method.encoder)
        reporter.step(numbers | evaluated)
        self.gap.after_step(self.processes)
        self.health.after_step(self.steps_done)
        if self.folder.is_due(self.steps_done, evaluated):
            self.drift.compare(self.steps_done, self.folder.last_checkpoint)
            self.folder.begin_save(self.step.state, self.steps_done)
        if self.standing:
            self.standing.end_step(numbers | evaluated)

    def _agreed(self, stop: StopSignals, batch: Batch | None, waited: float) -> Agreed:
        own = Agreed(
            signal=stop.received or 0,
            broken=len(batch.broken) if batch else 0,
            waited=waited,
            failed_saves=self.folder.failed_saves,
            run_is_lost=float(self.folder.lock.is_lost),
            can_grow=float(self.ground.can_grow()),
            no_batch=float(batch is None),
        )
        return Agreed(*maximum(list(own)))

    def _batches(self, until: int, stop: StopSignals) -> Generator[Batch, None, None]:
        steps = range(self.steps_done, until)
        return batches_here(
            self.config, self.source, self.order, self.processes, self.device, steps,
            cores=self.cores, is_stopped=lambda: stop.received,
        )  # fmt: skip

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
            "processes": self.processes.count,
        }
