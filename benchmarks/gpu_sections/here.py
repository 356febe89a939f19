"""What the sections of benchmarks/gpu.py have in common: where they run, a row of the table, times and memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from simclr_dist.config import Config, Recipe
from simclr_dist.config.recipe import Data, Encoder
from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.order import build_order
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import first_line
from simclr_dist.guards.anomalies import AnomalyWatch
from simclr_dist.models.kernels import set_kernels
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.training.step import TrainingStep


@dataclass(frozen=True)
class Row:
    """One line of a section's table."""

    what: str
    figure: str
    """For people."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """For programs."""
    wanted: str = ""
    """The bound, if there is one."""
    holds: bool | None = None
    """Whether the bound is kept; None: there is none, or it says nothing here."""


@dataclass(frozen=True)
class Here:
    """Where a section runs."""

    on_gpu: bool
    """False: the rehearsal, the same code on the CPU with tiny sizes, whose numbers mean nothing."""
    folder: Path
    """The section's own, for its files."""

    @property
    def device(self) -> torch.device:
        """Asked for in the section's own process: the one that starts sections must not touch CUDA."""
        return torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")

    @property
    def threads(self) -> int:
        """Of kernels on the CPU; 0: the cores divided among the processes."""
        return 0 if self.on_gpu else 1

    def size(self, gpu: Any, rehearsal: Any) -> Any:
        """A size of the measurement, and of its rehearsal."""
        return gpu if self.on_gpu else rehearsal

    def bound(self, holds: bool) -> bool | None:
        """``holds`` where it was measured on a GPU."""
        return holds if self.on_gpu else None

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], rounds: int = 10, warm_up: int = 3) -> float:
        """Median over the rounds of a call and what it leaves the device to do; in the rehearsal of one round."""
        for _ in range(self.size(warm_up, 1)):
            call()
        found = []
        for _ in range(self.size(rounds, 1)):
            self.wait()
            started = time.perf_counter()
            call()
            self.wait()
            found.append(time.perf_counter() - started)
        return statistics.median(found)

    def busy_seconds(self, call: Callable[[], object]) -> float:
        """How long the device's kernels and copies run in a call, one after the other; 0 on the CPU.

        Where it is below the call's own seconds, the device waits for the host.
        """
        if not self.on_gpu:
            call()
            return 0.0
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            self.wait()
        kernels = (event for event in profile.events() if event.device_type.name == "CUDA")
        return float(sum(event.device_time_total for event in kernels)) / 1e6

    def peak_bytes(self, call: Callable[[], object]) -> tuple[int, int]:
        """Highest memory (in tensors, reserved) of the device during a call; 0 on the CPU, which counts none."""
        if not self.on_gpu:
            call()
            return 0, 0
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def failed(what: str, error: Exception) -> Row:
    """The row of a contender that does not run here."""
    return Row(what, f"does not run: {type(error).__name__}: {first_line(error)[:150]}", {"failed": str(error)[:1000]})


def config_of(
    encoder: str, images: int, side: int, *, group: int = 0, stem: str = "imagenet", width: float = 1.0, **machine: Any
) -> Config:
    """A SimCLR recipe, and a machine half of ``machine``; without OmegaConf, which a GPU machine may lack."""
    recipe = Recipe(
        epochs=10,
        warmup_epochs=1,
        global_batch_images=images,
        batch_norm_group_images=group,
        data=Data(source="digits", image_size=side),
        encoder=Encoder(name=encoder, stem=stem, width=width),
    )
    config = Config(recipe=recipe)
    for key, value in machine.items():
        assert hasattr(config.machine, key), key
        setattr(config.machine, key, value)
    return config


def training_step(config: Config, here: Here) -> TrainingStep:
    """The trainer's step in one process on the device, without a run folder, ready to be taken."""
    recipe = config.recipe
    set_kernels(deterministic=config.machine.deterministic, precision=config.machine.precision)
    images = 4 * recipe.global_batch_images  # of the data set: so that there are as many steps
    order = build_order(recipe, images)
    schedule = build_schedule(recipe, order)
    anomalies = AnomalyWatch(recipe.anomalies, Path(), schedule.warmup_steps, None, active=False)
    step = TrainingStep(config, Processes(), here.device, schedule, order.steps_per_epoch, images, anomalies)
    step.make_parallel()
    return step


def random_batch(recipe: Recipe, here: Here) -> Batch:
    """The recipe's global batch with noise for views, in the host's memory, pinned as the loader's."""
    from random_steps import random_batch as of_noise

    batch = of_noise(recipe)
    return batch.pin_memory() if here.on_gpu else batch
