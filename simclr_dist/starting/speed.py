"""What this machine is, and how long a step of some recipe takes on it."""

import dataclasses
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.data.loading.order import build_order
from simclr_dist.distributed.cores import usable_cores
from simclr_dist.distributed.processes import Processes
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.training.step import TrainingStep

_STEPS = 4
_MOST_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Host:
    """Where the run will be."""

    cores: int
    gpus: int
    gpu: str = ""
    """Name of the first GPU."""
    gpu_bytes: int = 0
    """Memory of it that is free."""
    half: str = "float32"
    """The half precision that it is fast in; float32: none."""
    load: float = 0.0
    """Processes that wanted a core in the last minute."""

    @property
    def device(self) -> str:
        """``cuda`` or ``cpu``."""
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Of a step on one process."""

    seconds_an_image: float
    bytes_an_image: float
    """Memory of the GPU at most; 0 on the CPU."""


def host_here() -> Host:
    """The machine that this process is on."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not gpus:
        return Host(cores=usable_cores(), gpus=0, load=os.getloadavg()[0])
    capability = torch.cuda.get_device_capability(0)
    return Host(
        cores=usable_cores(),
        gpus=gpus,
        gpu=torch.cuda.get_device_name(0),
        gpu_bytes=torch.cuda.mem_get_info(0)[0],
        half="bfloat16" if capability >= (8, 0) else "float16",
        load=os.getloadavg()[0],
    )


def time_step(config: Config, images: int) -> Timing:
    """A step of ``config``'s recipe at a batch of ``images`` on one process: views of noise, weights that stay.

    The first step, which also sets up kernels, counts only when it takes all the time that there is. On a GPU whose
    memory is too small the batch is halved.
    """
    device = torch.device("cuda", 0) if config.machine.device == "cuda" else torch.device("cpu")
    while True:
        try:
            return _timed(config, images, device)
        except torch.OutOfMemoryError:
            if images <= 2:
                raise
            images //= 2
            torch.cuda.empty_cache()


def _timed(config: Config, images: int, device: torch.device) -> Timing:
    recipe = dataclasses.replace(config.recipe, global_batch_images=images)
    order = build_order(recipe, images)
    schedule = build_schedule(recipe, order)
    anomalies = AnomalyWatch(recipe.anomalies, Path(), schedule.warmup_steps, None, active=False)
    config = dataclasses.replace(config, recipe=recipe)
    step = TrainingStep(config, Processes(), device, schedule, order.steps_per_epoch, images, anomalies)
    batch = blank_batch(recipe, images, device)
    for views in batch.views.values():
        views.random_(0, 256)
    seconds: list[float] = []
    while len(seconds) < _STEPS and sum(seconds) < _MOST_SECONDS:
        started = time.perf_counter()
        computed = step.compute_gradients(batch)
        step.update(0)
        step.after_update(computed, 0)
        step.optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Timing(seconds_an_image=statistics.median(seconds[1:] or seconds) / images, bytes_an_image=memory / images)
