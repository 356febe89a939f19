"""A run's own step and batch on fake tensors.

Fake tensors (torch's FakeTensorMode) have shapes and types but no values. The fake device is the CPU: faking a CUDA
device fails in the backward pass where there is no driver.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from simclr_dist.config import Config, Recipe
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.data.loading.order import build_order
from simclr_dist.distributed.processes import Processes
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.methods.base import Method
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.planning.fakes import default_dtype
from simclr_dist.training.step import TrainingStep, updates_ahead

CPU = torch.device("cpu")


class FakeBatch(Batch):
    """A batch whose numbers are not there, those drawn for its images included."""

    @classmethod
    def of(cls, recipe: Recipe, images: int) -> "FakeBatch":
        """Of the recipe's groups of views; call it in a FakeTensorMode."""
        return cls(**vars(blank_batch(recipe, images, CPU)))

    def draws(self, purpose: str, count: int) -> Tensor:
        """In place of numbers that are computed from the sample ids: as many, without values."""
        return torch.zeros(len(self), count, dtype=torch.float64, device=self.device)


class FakeStep(TrainingStep):
    """The step of one of ``processes`` over a data set of ``images``; make it in a FakeTensorMode."""

    def __init__(self, config: Config, processes: int, images: int) -> None:
        """Raises ValueError when the batch-norm groups cannot be mapped onto the processes or chunks."""
        recipe = config.recipe
        order = build_order(recipe, images)
        schedule = build_schedule(recipe, order)
        anomalies = AnomalyWatch(recipe.anomalies, Path(), schedule.warmup_steps, None, active=False)
        with default_dtype(config.machine.precision):
            super().__init__(
                config, Processes(count=processes), CPU, schedule, order.steps_per_epoch, images, anomalies
            )
        self.updates_ahead = updates_ahead(config.machine.device, self.scaler)

    @property
    def last(self) -> int:
        """The number of the run's last step, in which nothing waits any more to be trained."""
        return self.schedule.total_steps - 1

    def make_optimizer_state(self) -> None:
        """The state that the optimizer has at the end of a run: made by updates with gradients of zero."""
        for step in {0, self.last}:
            for parameter in self.method.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            self.set_rates(step)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def method_state(self) -> list[Tensor]:
        """The buffers that are no batch norm's: queues, banks, the mean and the deviation of the pixels."""
        norms = {id(buffer) for buffer in self._buffers}
        return [buffer for buffer in self.method.buffers() if id(buffer) not in norms]

    def _on_device(self, method: Method) -> Method:
        # Module.to() refuses fake tensors: they were made in their type, and are laid out one by one.
        if self.config.machine.channels_last:
            for tensor in (*method.parameters(), *method.buffers()):
                if tensor.dim() == 4:
                    tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return method


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Those that get gradients."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
