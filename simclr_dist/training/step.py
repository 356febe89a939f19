"""One step of the recipe: gradients, a look at the numbers, and the update, or what the recipe does instead."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.distributed.data_parallel import data_parallel, settle_buckets
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import AgreedError
from simclr_dist.guards.anomalies import GO_BACK, STOP, Anomaly, AnomalyWatch
from simclr_dist.guards.nonfinite import NumericsWatch, where_not_finite
from simclr_dist.guards.rollback import RollbackPoint
from simclr_dist.guards.undo import Undo
from simclr_dist.methods.base import Method, Moment
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import average_running_statistics, copy_all, norms_of
from simclr_dist.models.drops import drops_of
from simclr_dist.models.precision import AUTOCAST
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.optim import make_optimizer
from simclr_dist.optim.clipping import clip_each
from simclr_dist.optim.rates import set_rates
from simclr_dist.optim.schedule import Schedule
from simclr_dist.run.finite import first_not_finite
from simclr_dist.training.embedding_rank import embedding_rank
from simclr_dist.training.gradients import Computed, compute_gradients
from simclr_dist.training.method_rules import check_rules
from simclr_dist.training.numbers import NumbersOnTheWay
from simclr_dist.training.recorded import RecordedEmbedding, record_embedding
from simclr_dist.training.scaler import Scaler


class StoppedByAnomalyError(Exception):
    """The recipe stops at numbers like these; all processes raise it, and the state is that before the step."""


class TrainingStep:
    """The method, its optimizer and everything else that a step changes. All processes call the same methods."""

    def __init__(
        self,
        config: Config,
        processes: Processes,
        device: torch.device,
        schedule: Schedule,
        steps_per_epoch: int,
        images: int,
        anomalies: AnomalyWatch,
    ) -> None:
        """Before the first step and :meth:`make_parallel`, over a data set of ``images``."""
        recipe, machine = config.recipe, config.machine
        self.config, self.device, self.schedule, self.anomalies = config, device, schedule, anomalies
        self.steps_per_epoch = steps_per_epoch
        batch = recipe.global_batch_images
        self.local_images = batch // processes.count
        self.statistics = divide_batch_norm(
            recipe.batch_norm_group_images, batch, processes.count, chunk_images=machine.images_per_chunk
        )
        self.method = self._on_device(build_method(recipe, images, self.statistics, machine.recompute))
        self.rates = self.method.rates()
        self.optimizer = make_optimizer(self.method, recipe.optimizer, self.rates)
        self.scaler: torch.amp.GradScaler = Scaler(device.type, enabled=machine.precision == "float16")
        self.updates_ahead = updates_ahead(device.type, self.scaler)
        """Whether the update is given to the device before its numbers are judged, and taken back where it must not be
        (docs/design/step.md). The weights are the same."""
        self.rollback_point = None
        if recipe.anomalies.needs_rollback:
            self.rollback_point = RollbackPoint(self.trained, recipe.anomalies.rollback_every_steps or steps_per_epoch)
        self.parallel: nn.Module = self.method
        self.recorded: RecordedEmbedding | None = None
        # Of norms alone: whatever else a method holds moves after an update, and a queue may be large.
        self._buffers = [buffer for norm in norms_of(self.method) for buffer in norm.buffers()]
        self._buffers_before = [buffer.clone() for buffer in self._buffers]

    @property
    def trained(self) -> dict[str, Any]:
        """What an update changes, by its name in a checkpoint."""
        return {"model": self.method, "optimizer": self.optimizer, "scaler": self.scaler}

    @property
    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint holds of the steps done."""
        point = {"anchor": self.rollback_point} if self.rollback_point else {}  # as earlier versions called it
        return self.trained | {"anomalies": self.anomalies} | point

    def make_parallel(self) -> None:
        """Check the method's rules, compile and join the processes, once the state is restored.

        Raises:
            UserError: the method breaks a rule; it is named.
        """
        recipe, machine = self.config.recipe, self.config.machine
        at_once = machine.images_per_chunk or self.local_images
        half = AUTOCAST.get(machine.precision)
        check_rules(self.method, recipe, self.statistics, at_once // self.statistics.local_groups, half)
        if machine.compile and drops_of(self.method):
            raise AgreedError(
                "machine.compile: what is compiled would drop the same in every step; set machine.compile=false, or "
                "the drop rates in recipe.encoder.options to 0"
            )
        if machine.compile and not machine.debug_numerics:  # inside what is compiled no layer can be looked at
            for part in self.method.children():
                part.compile()
        self._record(at_once)
        self.parallel = data_parallel(self.method, self.device)
        blank = blank_batch(recipe, self.local_images, self.device)
        settle_buckets(self.parallel, self._buffers, lambda: self.compute_gradients(blank))

    def __call__(self, batch: Batch, steps_done: int) -> dict[str, float]:
        """One step on this process's share of the global batch; its metrics.

        Raises:
            StoppedByAnomalyError: the numbers are such that the recipe stops; nothing is changed.
        """
        if self.rollback_point:
            self.rollback_point.take_when_due(steps_done, is_healthy=self.anomalies.is_healthy)
        copy_all(self._buffers_before, self._buffers)
        batch = batch.to(self.device)
        watch = NumericsWatch(self.method) if self.config.machine.debug_numerics else None
        with watch or nullcontext():
            computed = self.compute_gradients(batch)
        self.scaler.unscale_(self.optimizer)
        numbers = NumbersOnTheWay(computed.outputs | {"gradient_norm": self.gradient_norm()})
        undo = self._update_ahead(steps_done) if self.updates_ahead else None
        values = numbers.arrive()
        # Gradient scaling answers an overflow by itself; at a scale of 1 it is not the scale's fault.
        overflows = (
            not math.isfinite(values["gradient_norm"]) and self.scaler.is_enabled() and self.scaler.get_scale() > 1
        )
        anomaly = self.anomalies.judge(steps_done + 1, values, overflow_is_normal=overflows)
        if anomaly and anomaly.value is None:
            values = dict.fromkeys(values, math.nan)  # by comparisons with NaN every positive would be the most similar
        values["learning_rate"] = self.schedule(steps_done)
        if undo and anomaly:
            undo.put_back()
        elif not undo and not anomaly:
            self.update(steps_done)
        del undo  # with its copies: what follows may need their room
        if anomaly:
            values |= self._instead_of_update(anomaly, batch, watch)
        else:
            values |= embedding_rank(self.method, computed.embeddings, steps_done, self.schedule.total_steps)
            if overflows:
                values["skipped"] = 1.0  # by gradient scaling: the optimizer's step was none
            else:
                self.after_update(computed, steps_done)
        self.scaler.update()
        self.optimizer.zero_grad()
        return values

    def compute_gradients(self, batch: Batch) -> Computed:
        """Forward and backward pass; the gradients, averaged over processes, stand in the parameters."""
        return compute_gradients(
            self.method,
            self.parallel,
            batch,
            chunk_images=self.config.machine.images_per_chunk,
            autocast=AUTOCAST.get(self.config.machine.precision),
            scaler=self.scaler,
        )

    def is_finite(self) -> bool:
        """Whether weights and running statistics are."""
        return first_not_finite(self.method.state_dict()) is None

    def update(self, step: int) -> None:
        """The optimizer's part of the update, and running statistics: what can be taken back."""
        if limit := self.config.recipe.optimizer.clip_gradient_norm:
            clip_each(self.method.parameters(), limit)
        self.set_rates(step)
        self.scaler.step(self.optimizer)
        if self.config.recipe.batch_norm_group_images:
            average_running_statistics(self.method)

    @torch.no_grad()
    def after_update(self, computed: Computed, step: int) -> None:
        """The method's part: teachers, queues, banks. Of nothing in it is there a copy."""
        total = self.schedule.total_steps
        self.method.after_update(computed.embeddings, computed.targets, computed.batch, step, total)

    def set_rates(self, step: int) -> None:
        """Give every parameter its learning rate for ``step``, counted from 0; what is frozen loses its gradient."""
        schedule = self.schedule
        moment = Moment(
            step=step, steps=schedule.total_steps, steps_per_epoch=self.steps_per_epoch,
            scheduled=schedule(step), peak=schedule.peak,
        )  # fmt: skip
        set_rates(self.optimizer, self.rates, moment)

    def _on_device(self, method: Method) -> Method:
        machine = self.config.machine
        method.to(self.device, dtype=torch.float64 if machine.precision == "float64" else torch.float32)
        return method.to(memory_format=torch.channels_last) if machine.channels_last else method

    def _update_ahead(self, step: int) -> Undo:
        """Update before the step is judged. The copy is made here, when the activations are gone: at the step's peak of
        memory there is none."""
        undo = Undo(self.optimizer)
        self.update(step)
        self.optimizer.zero_grad()
        return undo

    def _instead_of_update(self, anomaly: Anomaly, batch: Batch, watch: NumericsWatch | None) -> dict[str, float]:
        """Leave no trace of the pass, and do as the recipe says; what the metrics tell of it.

        Raises:
            StoppedByAnomalyError: the recipe stops.
        """
        where = "" if anomaly.value is not None else where_not_finite(self.method, lambda: self._again(batch), watch)
        copy_all(self._buffers, self._buffers_before)
        self.anomalies.answered(anomaly, where)
        if anomaly.action == STOP:
            self.optimizer.zero_grad()
            raise StoppedByAnomalyError(anomaly.sentence(where))
        if anomaly.action == GO_BACK:
            assert self.rollback_point is not None
            return {"returned_to_step": float(self.rollback_point.go_back())}
        return {"skipped": 1.0}

    def _record(self, at_once: int) -> None:
        """On a GPU, the passes of so many images at once."""
        if self.device.type == "cuda":
            chunks = at_once < self.local_images
            self.recorded = record_embedding(self.method, self.config, self.statistics, at_once, chunks=chunks)

    def _again(self, batch: Batch) -> dict[str, float]:
        """Loss and gradient norm of the same step, computed once more, by layers that call their hooks."""
        self.optimizer.zero_grad()
        with self.recorded.paused() if self.recorded else nullcontext():
            outputs = self.compute_gradients(batch).outputs
        return NumbersOnTheWay({"loss": outputs["loss"], "gradient_norm": self.gradient_norm()}).arrive()

    def gradient_norm(self) -> Tensor:
        """The norm of all gradients together, a scalar."""
        return nn.utils.get_total_norm([p.grad for p in self.method.parameters() if p.grad is not None])


def updates_ahead(device: str, scaler: torch.amp.GradScaler) -> bool:
    """On a GPU, which has nothing to do while the host looks at its numbers and then issues an update.

    Gradient scaling waits for the device before it updates in any case; a CPU has nothing to overlap, and would pay
    for the copy.
    """
    return device == "cuda" and not scaler.is_enabled()
