"""Steps of a run without a run folder, and what they allocate."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.data.loading.order import build_order
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.processes import Processes
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.training.step import TrainingStep


def training_step(config: Config, images: int, *, parallel: bool = True) -> TrainingStep:
    """The step of this process on the CPU, over a data set of ``images``; ``parallel``: ready to be taken."""
    order = build_order(config.recipe, images)
    anomalies = AnomalyWatch(config.recipe.anomalies, Path(), 0, None, active=False)
    schedule = build_schedule(config.recipe, order)
    processes = Processes(process_rank(), process_count(), process_rank(), process_count())
    step = TrainingStep(config, processes, torch.device("cpu"), schedule, order.steps_per_epoch, images, anomalies)
    if parallel:
        step.make_parallel()
    return step


def noise_batch(config: Config, seed: int, images: int = 0) -> Batch:
    """A blank batch whose views are noise, of the global batch's ``images`` unless fewer are asked for, on the CPU."""
    batch = blank_batch(config.recipe, images or config.recipe.global_batch_images, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    for views in batch.views.values():
        views.random_(0, 256, generator=generator)
    return batch


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Of their elements."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Its state."""
    return [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]


def allocated(function: Callable[[], Any]) -> tuple[int, int]:
    """Highest and last level of torch's CPU allocator over the start of ``function``, oneDNN's scratch included."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        kept = function()
    level = peak = 0
    for event in profile.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    del kept
    return peak, level
