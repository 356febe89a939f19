"""Predicted and measured peak memory of a step on this machine's CPU.

    python benchmarks/plan.py [--tracker]

Each run is a trainer in a fresh process that takes a few steps on random images. Measured: how far the process's
resident memory grew, at its highest, over its level after all imports. glibc is told to give every block of 64 KiB and
more back to the system at once, so that resident memory follows the tensors. Predicted: the traced step's peak, by the
same code as ``simclr-dist plan``. The resident memory also holds what is no tensor (oneDNN's compiled kernels and
scratch, autograd's graph), so it is a little more; the ratio shows how much. bfloat16 is left out: a CPU without
kernels for it unfolds whole layers for a convolution, which no GPU does.

--tracker compares the traced peak with torch's own MemTracker instead, and their times.
"""

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from random_steps import random_batch

from simclr_dist.config import Config, load_config
from simclr_dist.planning.fakes import kernels_of
from simclr_dist.planning.traced_step import StepTrace, traced_step

# name, overrides of the recipe, precision, recompute
RUNS: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "resnet18, 128 images of 64 px, float32",
        {"encoder.name": "resnet18", "images": 128, "side": 64},
        "float32",
        "none",
    ),
    (
        "resnet50, 32 images of 96 px, float32",
        {"encoder.name": "resnet50", "images": 32, "side": 96},
        "float32",
        "none",
    ),
    (
        "resnet18 small stem, 128 images of 32 px, float32, recompute=blocks",
        {"encoder.name": "resnet18", "encoder.stem": "small", "images": 128, "side": 32},
        "float32",
        "blocks",
    ),
    (
        "resnet18, 128 images of 64 px, float32, batch norm over 32",
        {"encoder.name": "resnet18", "images": 128, "side": 64, "batch_norm_group_images": 32},
        "float32",
        "none",
    ),
]
IMAGES = 1437  # of the digits
_RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def config_of(number: int, folder: str) -> Config:
    _, recipe, precision, recompute = RUNS[number]
    names = {"images": "global_batch_images", "side": "data.image_size"}
    file = Path(folder) / "bench.yaml"
    file.write_text("recipe: {data: {source: digits}}\n")
    overrides = [f"recipe.{names.get(key, key)}={value}" for key, value in recipe.items()]
    config = load_config(str(file), [*overrides, f"machine.precision={precision}", f"machine.run_dir={folder}/run"])
    return replace(config, machine=replace(config.machine, recompute=recompute))


def status(key: str) -> int:
    """A line of /proc/self/status in bytes."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def measure(number: int) -> None:
    """In a fresh process: prints the growth of resident memory in bytes."""
    from sklearn.datasets import load_digits

    from simclr_dist.distributed.processes import Processes
    from simclr_dist.training.trainer import Trainer

    load_digits()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(number, folder)
        gc.collect()
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest level starts anew
        trainer = Trainer(config, Processes(), torch.device("cpu"))
        batch = random_batch(config.recipe)
        for _ in range(2):  # the optimizer's state is there from the second on
            trainer.train_step(batch)
        print(json.dumps({"bytes": status("VmHWM") - before}))


def traced(config: Config) -> StepTrace:
    """One process with the whole batch, and no more images than that."""
    images = config.recipe.global_batch_images
    return traced_step(config.recipe, config.machine, images, 1, images)


def compare(number: int) -> float:
    name = RUNS[number][0]
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(number, folder)
    predicted = traced(config).peak_bytes
    run = subprocess.run(
        [sys.executable, __file__, "--measure", str(number)],
        env={**os.environ, **_RETURN_AT_ONCE, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    measured = json.loads(run.stdout.splitlines()[-1])["bytes"]
    ratio: float = predicted / measured
    print(f"{name:<70}{predicted / 2**20:>10.0f}{measured / 2**20:>10.0f}{ratio:>8.3f}", flush=True)
    return ratio


def compare_trackers() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    from simclr_dist.data.loading.batch import blank_batch
    from simclr_dist.methods.build import build_method
    from simclr_dist.models.statistics_group import divide_batch_norm
    from simclr_dist.optim import make_optimizer

    print(f"{'peak MiB':<70}{'ours':>10}{'s':>6}{'MemTracker':>12}{'s':>6}")
    for number, (name, _, precision, recompute) in enumerate(RUNS):
        if recompute != "none":
            continue
        with tempfile.TemporaryDirectory() as folder:
            config = config_of(number, folder)
        recipe = config.recipe
        started = time.perf_counter()
        ours = traced(config)
        middle = time.perf_counter()
        with kernels_of("cpu"), FakeTensorMode():  # LARS of a CPU reads numbers, which fake tensors do not have
            groups = divide_batch_norm(recipe.batch_norm_group_images, recipe.global_batch_images, 1)
            method = build_method(recipe, recipe.global_batch_images, groups)
            optimizer = make_optimizer(method, recipe.optimizer)
            for parameter in method.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
            batch = blank_batch(recipe, recipe.global_batch_images, torch.device("cpu"))
            tracker = MemTracker()
            tracker.track_external(method, optimizer, *batch.views.values())
            with tracker:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                    loss = method(batch).outputs["loss"]
                loss.backward()
                optimizer.step()
        theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
        end = time.perf_counter()
        seconds = middle - started, end - middle
        print(f"{name:<70}{ours.peak_bytes / 2**20:>10.0f}{seconds[0]:>6.1f}{theirs / 2**20:>12.0f}{seconds[1]:>6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tracker", action="store_true", help="compare with torch's MemTracker instead")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        measure(options.measure)
    elif options.tracker:
        compare_trackers()
    else:
        print(f"{'peak MiB':<70}{'predicted':>10}{'measured':>10}{'ratio':>8}")
        ratios = [compare(number) for number in range(len(RUNS))]
        print(f"predicted / measured: {min(ratios):.3f} to {max(ratios):.3f}; bound 0.85 to 1.15")
        sys.exit(not all(0.85 <= ratio <= 1.15 for ratio in ratios))


if __name__ == "__main__":
    main()
