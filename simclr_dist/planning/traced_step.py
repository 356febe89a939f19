"""One step of a run, traced on fake tensors: the run's own code, no data, no GPU, no memory.

Fake tensors (torch's FakeTensorMode) have shapes and types but no values, and torch's fake process group answers every
collective at once; so one process sees what each of thousands would allocate, compute and send. The fake device is the
CPU: faking a CUDA device fails in the backward pass where there is no driver.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from simclr_dist.config import Config, Machine, Recipe
from simclr_dist.data.loading.batches import VIEWS
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import average_running_statistics
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.optim import make_optimizer
from simclr_dist.planning.fakes import default_dtype, fake_processes, kernels_of
from simclr_dist.planning.gradient_buckets import in_buckets, tagged
from simclr_dist.planning.tracker import Sent, StepTracker
from simclr_dist.training.step import TrainingStep


@dataclass(frozen=True, kw_only=True)
class StepTrace:
    """What one step of one process takes. Bytes are those of tensors; see ``plan`` for what a device adds to them."""

    local_images: int
    processes: int
    peak_bytes: int
    """Highest sum of living tensors during the step."""
    at_peak: dict[str, int]
    """The same by category: weights (parameters and buffers), optimizer state, gradients, images, activations,
    backward (gradients of activations, recomputed ones), loss, update (what the optimizer needs for a moment)."""
    pass_bytes: int
    """Peak of the forward and backward passes."""
    update_bytes: int
    """Peak of the optimizer's update."""
    resting_bytes: int
    """Between steps: weights, optimizer state, and the gradient buckets when there is more than one process."""
    loss_bytes: int
    """Peak of what the loss alone makes, at whatever moment."""
    flops: int
    """Floating-point operations of matrix products and convolutions."""
    collectives: dict[Sent, int]
    """Kind -> calls."""
    payload: dict[Sent, int]
    """Kind -> bytes that the process puts in."""


def traced_step(recipe: Recipe, machine: Machine, local_images: int, processes: int) -> StepTrace:
    """Trace a step of one of ``processes`` that hold ``local_images`` each; the loss sees all of them.

    Args:
        recipe: what is computed; its global batch is local_images * processes here.
        machine: precision, images_per_chunk, recompute, channels_last; ``device: cuda`` gives the loss a GPU's tiles.
        local_images: images of a process in a step.
        processes: how many there are, none of which is started.

    Raises:
        ValueError: the batch-norm groups cannot be mapped onto the processes or chunks.
    """
    tracker = StepTracker()
    if machine.images_per_chunk >= local_images:
        machine = replace(machine, images_per_chunk=0)
    with fake_processes(processes), kernels_of(machine.device), FakeTensorMode(), tracker:
        step = _TracedStep(Config(recipe=recipe, machine=machine), local_images, processes, tracker)
        side = recipe.data.image_size
        with tracker.category("images"):
            images = torch.zeros(local_images, VIEWS, 3, side, side, dtype=torch.uint8)
        resting = tracker.living["weights"] + tracker.living["optimizer state"] + tracker.living["gradients"]
        tracker.restart()
        step.compute_gradients(images)
        pass_bytes = tracker.peak
        at_peak = tracker.at_peak
        update_bytes = step.update()
        if update_bytes > pass_bytes:
            at_peak = tracker.at_peak
    return StepTrace(
        local_images=local_images,
        processes=processes,
        peak_bytes=max(pass_bytes, update_bytes),
        at_peak={name: count for name, count in at_peak.items() if count},
        pass_bytes=pass_bytes,
        update_bytes=update_bytes,
        resting_bytes=resting,
        loss_bytes=tracker.loss_peak,
        flops=tracker.flops,
        collectives=dict(tracker.collectives),
        payload=dict(tracker.payload),
    )


class _TracedStep(TrainingStep):
    """A step on fake tensors, whose compute_gradients is the trainer's."""

    def __init__(self, config: Config, local_images: int, processes: int, tracker: StepTracker) -> None:
        recipe, machine = config.recipe, config.machine
        self.config, self.device, self.tracker = config, torch.device("cpu"), tracker
        group, chunk = recipe.batch_norm_group_images, machine.images_per_chunk
        statistics = divide_batch_norm(group, local_images * processes, processes, chunk_images=chunk)
        with tracker.category("weights"), default_dtype(machine.precision):
            self.method = build_method(recipe, statistics, machine.recompute)
            if machine.channels_last:
                for parameter in self.method.parameters():
                    if parameter.dim() == 4:
                        parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.method, recipe.optimizer)
        # The scaler's own tensors are scalars, and it reads their values, which fake ones do not have.
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self._make_optimizer_state()
        self.parallel = (in_buckets if processes > 1 else tagged)(self.method, tracker)

    def _make_optimizer_state(self) -> None:
        """The state that every step but the first finds: made by an update with gradients of zero."""
        for parameter in self.method.parameters():
            parameter.grad = torch.zeros_like(parameter)
        with self.tracker.category("optimizer state"):
            self.optimizer.step()
        self.optimizer.zero_grad()

    def update(self) -> int:
        """What the trainer does after the gradients; returns the peak of it in bytes."""
        collectives, payload, flops = self.tracker.collectives.copy(), self.tracker.payload.copy(), self.tracker.flops
        self.tracker.restart()
        with self.tracker.category("update"):
            nn.utils.get_total_norm([p.grad for p in self.method.parameters() if p.grad is not None])
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.config.recipe.batch_norm_group_images:
                average_running_statistics(self.method)
        self.tracker.collectives.update(collectives)
        self.tracker.payload.update(payload)
        self.tracker.flops += flops
        return self.tracker.peak
