"""The training loop. It knows no particular method: a module that maps views to a dict with a ``loss`` will do."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simclr_dist.build import build_batches, build_method, build_order, build_schedule
from simclr_dist.checks import check_machine
from simclr_dist.config import Config
from simclr_dist.data.broken import BrokenImages
from simclr_dist.data.device_renderer import render_colors
from simclr_dist.data.loader import VIEWS, Batch, load_steps
from simclr_dist.data.sources import open_source
from simclr_dist.distributed.agreement import all_or_none
from simclr_dist.distributed.collectives import gather_objects, maximum
from simclr_dist.distributed.data_parallel import data_parallel, settle_buckets
from simclr_dist.distributed.processes import Processes, choose_device, process_group, set_kernels, worker_count
from simclr_dist.drift import DriftCheck
from simclr_dist.errors import agreed_error
from simclr_dist.evaluation.online import OnlineEvaluation
from simclr_dist.gradients import compute_gradients
from simclr_dist.health import HealthCheck
from simclr_dist.metrics import Reporter, log
from simclr_dist.models.batch_norm import average_running_statistics
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.optim import make_optimizer
from simclr_dist.precision import AUTOCAST
from simclr_dist.run_folder import RunFolder
from simclr_dist.run_lock import RunLock
from simclr_dist.signals import StopSignals


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
    set_kernels(config.machine.threads_per_process, config.machine.deterministic, processes.local_count)
    with (
        StopSignals() as stop,
        process_group(processes, device, config.machine.collective_timeout_seconds),
        RunLock(config.machine.run_dir, job_has_ended) as lock,
    ):
        return Trainer(config, processes, device, lock).train(stop)


class Trainer:
    """A run: its objects, restored from the newest checkpoint of the run folder, and the loop over its steps."""

    def __init__(self, config: Config, processes: Processes, device: torch.device, lock: RunLock | None = None) -> None:
        recipe, machine = config.recipe, config.machine
        self.config, self.processes, self.device = config, processes, device
        with all_or_none():
            self.source = open_source(recipe.data)
            self.order = build_order(recipe, len(self.source))
            self.online = OnlineEvaluation(recipe, machine.evaluate_every_epochs, self.order.steps_per_epoch, device)
        self.folder = RunFolder(config, self.source, lock)
        self.schedule = build_schedule(recipe, self.order)
        steps = (self.schedule.total_steps, self.order.steps_per_epoch)
        self.health = HealthCheck(self.folder.path, config.health, *steps, active=processes.is_first)
        chunk, batch = machine.images_per_chunk, recipe.global_batch_images
        statistics = divide_batch_norm(recipe.batch_norm_group_images, batch, processes.count, chunk_images=chunk)
        self.method = build_method(recipe, statistics, machine.recompute).to(
            device, dtype=torch.float64 if machine.precision == "float64" else torch.float32
        )
        if machine.channels_last:
            self.method.to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.method, recipe.optimizer)
        self.scaler = torch.amp.GradScaler(device.type, enabled=machine.precision == "float16")
        self.state = {"model": self.method, "optimizer": self.optimizer, "scaler": self.scaler}
        self.steps_done = self.folder.restore(self.state)
        self.drift = DriftCheck(config, self.order, self.folder.images, self.method, self.optimizer)
        # Before DDP gives all processes rank 0's weights, which would hide that theirs differ.
        self.drift.compare(self.steps_done, self.folder.last_checkpoint)
        if machine.compile:
            self.method.encoder.compile()
            self.method.projection.compile()
        self.parallel = data_parallel(self.method, device)
        blank = torch.zeros(
            batch // processes.count, VIEWS, 3, recipe.data.image_size, recipe.data.image_size, dtype=torch.uint8
        )
        settle_buckets(self.parallel, lambda: self.compute_gradients(blank))

    def train(self, stop: StopSignals) -> Outcome:
        """Walk the steps that are left; save as asked, at the end, and when stopped."""
        machine, total = self.config.machine, self.schedule.total_steps
        until = min(total, machine.stop_after_steps or total)
        broken = BrokenImages(self.folder.path, len(self.source), machine.max_broken_image_share)
        signal = 0
        if self.processes.is_first:
            log.info("step %d of %d, %d processes, %s", self.steps_done, total, self.processes.count, self.device.type)
        with (
            closing(self._loader(until)) as batches,
            Reporter(self.folder.path, self.steps_done, total, active=self.processes.is_first) as reporter,
            closing(self.folder),
        ):
            self.health.begin(self.steps_done, self.online.every_steps)
            while self.steps_done < until and not signal:
                started = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - started
                # One small collective: was anyone told to stop, is an image broken, how long did the slowest wait, how
                # many saves failed, has another process taken the run over.
                folder = self.folder
                own = [stop.received or 0, len(batch.broken), waited, folder.failed_saves, float(folder.lock.is_lost)]
                facts = maximum(own, self.device)
                signal = int(facts[0])
                if facts[4]:
                    raise agreed_error(folder.lock.loss())
                folder.check_saves(facts[3])
                if facts[1]:
                    self._note(broken, batch, reporter)
                values = self.train_step(self._views(batch))
                self.steps_done += 1
                self.drift.after_step(self.steps_done, self.folder.last_checkpoint)
                progress = self._progress(values, time.perf_counter() - started, waited=facts[2])
                reporter.step(progress | self.online.after_step(self.steps_done, self.method.encoder))
                self.health.after_step(self.steps_done)
                if self.steps_done % machine.save_every_steps == 0:
                    self.drift.compare(self.steps_done, self.folder.last_checkpoint)
                    self.folder.begin_save(self.state, self.steps_done, reporter.sync)
            self.drift.compare(self.steps_done, self.folder.last_checkpoint)
            self.folder.finish_save(self.state, self.steps_done, reporter.sync)
        return Outcome(self.steps_done, total, signal)

    def train_step(self, images: Tensor) -> dict[str, float]:
        """One step of the recipe on this process's share of the global batch, uint8 (local images, views, 3, h, w).

        Raises:
            UserError: the loss or the gradient is not finite; the weights are still those of the step before.
        """
        learning_rate = self.schedule(self.steps_done)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        outputs = self.compute_gradients(images)
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        outputs["gradient_norm"] = nn.utils.get_total_norm(gradients)
        values = _numbers(outputs)
        self._refuse_not_finite(values)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.config.recipe.batch_norm_group_images:
            average_running_statistics(self.method)
        return {**values, "learning_rate": learning_rate}

    def compute_gradients(self, images: Tensor) -> dict[str, Tensor]:
        """Forward and backward pass; the gradients, averaged over processes, stand in the parameters."""
        return compute_gradients(
            self.method,
            self.parallel,
            images.to(self.device, non_blocking=True),
            chunk_images=self.config.machine.images_per_chunk,
            autocast=AUTOCAST.get(self.config.machine.precision),
            scaler=self.scaler,
        )

    def _loader(self, until: int) -> Generator[Batch, None, None]:
        processes, machine = self.processes, self.config.machine
        batches = build_batches(self.config, self.source, self.order, processes.rank, processes.count)
        return load_steps(
            batches,
            range(self.steps_done, until),
            workers=worker_count(machine.loader_workers, processes.local_count),
            pin_memory=self.device.type == "cuda",
        )

    def _views(self, batch: Batch) -> Tensor:
        if batch.choices is None:
            return batch.images
        crops = batch.images.to(self.device, non_blocking=True)
        return render_colors(crops, batch.choices, self.config.recipe.views.color_form)

    def _note(self, broken: BrokenImages, batch: Batch, reporter: Reporter) -> None:
        for met in gather_objects(batch.broken):
            broken.note(met, write=self.processes.is_first)
        if complaint := broken.too_many():
            self.drift.compare(self.steps_done, self.folder.last_checkpoint)
            self.folder.finish_save(self.state, self.steps_done, reporter.sync)
            raise agreed_error(complaint)

    def _progress(self, values: dict[str, float], seconds: float, waited: float) -> dict[str, float]:
        return {
            "step": self.steps_done,
            "epoch": self.order.epoch(self.steps_done - 1) + 1,
            **values,
            "images_per_second": self.config.recipe.global_batch_images / seconds,
            "data_wait_share": waited / seconds,
            "step_seconds": seconds,
        }

    def _refuse_not_finite(self, values: dict[str, float]) -> None:
        # With gradient scaling a gradient may overflow: the scaler skips that step and lowers the scale.
        checked = ("loss",) if self.scaler.is_enabled() else ("loss", "gradient_norm")
        for name in checked:
            if not math.isfinite(values[name]):
                raise agreed_error(
                    f"{name} is {values[name]} at step {self.steps_done + 1}; {self.folder.last_checkpoint()}. "
                    "Lower recipe.optimizer.base_learning_rate or lengthen the warm-up, in another machine.run_dir"
                )


def _numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """All scalars in one transfer from the device."""
    stacked = torch.stack([value.detach().to(torch.float64) for value in values.values()])
    return dict(zip(values, stacked.tolist(), strict=True))
