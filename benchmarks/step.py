"""What the trainer adds to a step, and what grouped batch norm does: against bare loops over the same network.

    python benchmarks/step.py [--encoder resnet18] [--images 32] [--side 64] [--rounds 20] [--group 0]
                              [--device cuda --precision bfloat16 --channels-last]

Contenders, on the same tensors, in turn, in one process; data loading is left out:

- trainer: the trainer's step;
- bare: forward pass, loss, backward pass and optimizer of the same method, with this project's batch norm;
- copy: the copy of the state alone that machine.on_lost_process=go_on makes before each step;
- native: the same with torch's nn.BatchNorm2d and nn.BatchNorm1d, whose group is all rows;
- sync (on a GPU alone): the same with the function of torch's SyncBatchNorm, in a group of one process; beside it
  "processes", this project's batch norm as of a group of several, which sends nothing either.

Printed: the median over rounds of the ratios of their times, on a CPU processor times, which a machine's other work
reaches through its caches alone. Absolute times are shown for orientation only.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from random_steps import make_trainer, random_batch
from side_by_side import in_turn, ratio
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm

from simclr_dist.config import Config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.methods.base import Method
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.precision import AUTOCAST, half_precision
from simclr_dist.models.statistics_group import StatisticsGroup, divide_batch_norm
from simclr_dist.optim import make_optimizer
from simclr_dist.training.standing import Origin, Standing
from simclr_dist.training.trainer import Trainer


class Native(nn.modules.batchnorm._BatchNorm):
    """nn.BatchNorm2d and nn.BatchNorm1d, which differ in the inputs that they refuse alone."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass


class Sync(Native):
    """nn.SyncBatchNorm as of several processes: of one it would be nn.BatchNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        everything = dist.group.WORLD
        found: Tensor = SyncBatchNorm.apply(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.eps, self.momentum, everything, 1
        )
        return found


def with_norms(module: nn.Module, kind: type[Native]) -> Any:
    """Its batch norms replaced by torch's."""
    for name, child in module.named_children():
        if isinstance(child, GroupedBatchNorm):
            made = kind(child.num_features, child.eps, child.momentum, affine=child.affine)
            if child.bias is None:
                made.register_parameter("bias", None)
            setattr(module, name, made)
        else:
            with_norms(child, kind)
    return module


def bare(method: Method, config: Config, batch: Batch) -> Callable[[], None]:
    """A step of the loop that one would write for this method."""
    machine = config.machine
    method.to(batch.device)
    if machine.channels_last:
        method.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(method, config.recipe.optimizer)

    def step() -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        with half_precision(batch.device, AUTOCAST.get(machine.precision)):
            outputs = method(batch).outputs
        outputs["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def contenders(trainer: Trainer, device: torch.device) -> dict[str, Callable[[], object]]:
    """Name -> its step; each waits for the device."""
    config, recipe = trainer.config, trainer.config.recipe
    batch = random_batch(recipe).to(device)

    def method(statistics: StatisticsGroup) -> Method:
        return build_method(recipe, len(trainer.source), statistics)

    own = divide_batch_norm(recipe.batch_norm_group_images, recipe.global_batch_images, 1)
    steps: dict[str, Callable[[], object]] = {
        "trainer": lambda: trainer.train_step(batch),
        "copy": Standing(trainer.step.state, 0, Origin({}, ""), [], 1).begin_step,
        "bare": bare(method(own), config, batch),
        "native": bare(with_norms(method(own), Native), config, batch),
    }
    if device.type == "cuda":
        store = dist.HashStore()  # type: ignore[attr-defined]  # public, and not in its __all__
        dist.init_process_group("nccl", store=store, rank=0, world_size=1)
        steps["processes"] = bare(method(StatisticsGroup(spans_processes=True)), config, batch)
        steps["sync"] = bare(with_norms(method(own), Sync), config, batch)
        return {name: partial(_waited_for, step) for name, step in steps.items()}
    return steps


def _waited_for(step: Callable[[], object]) -> None:
    step()
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--group", type=int, default=0, help="images of a batch-norm group; 0: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--channels-last", action="store_true")
    options = parser.parse_args()
    more = (
        f"recipe.batch_norm_group_images={options.group}",
        f"machine.precision={options.precision}",
        f"machine.channels_last={str(options.channels_last).lower()}",
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, options, *more, device=options.device)
        clock = time.process_time if options.device == "cpu" else time.perf_counter
        seconds = in_turn(contenders(trainer, torch.device(options.device)), options.rounds, warm_up=2, clock=clock)
    group = options.group or options.images
    print(f"{options.encoder}, {options.images} images of {options.side} pixels, batch norm over {group}, {more[1:]}")
    pairs = [("trainer", "bare"), ("trainer", "native"), ("bare", "native"), ("copy", "trainer"), ("processes", "sync")]
    for ours, theirs in (pair for pair in pairs if pair[0] in seconds):
        print(f"{ours:9} / {theirs:6}: {ratio(seconds[ours], seconds[theirs])}")
    medians = (f"{name} {1000 * statistics.median(each):.0f} ms" for name, each in seconds.items())
    print("for orientation:", ", ".join(medians))


if __name__ == "__main__":
    main()
