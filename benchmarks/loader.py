"""Our loader beside torchvision's own: two full SimCLR views of JPEG files, images a second on one core.

    pip install .[dev]     (the photographs are scikit-image's and scikit-learn's)
    python benchmarks/loader.py [--sizes 32:32 96:96 256:224] [--images 128] [--rounds 5] [--cpu-seconds]
    python benchmarks/loader.py --trainer      the share of a training step that waits for data, by a ResNet-18

torchvision's: ImageFolder (Pillow), transforms.v2 on Pillow images, DataLoader in this process. Ours: the same files
and the same operations, in this process too. Contenders take turns; printed are medians of their ratios in one run,
bicubic crops against torchvision's bicubic ones too, then where our remaining time goes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photographs import photographs, random_patch
from side_by_side import in_turn, ratio
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from simclr_dist.config.recipe import Recipe
from simclr_dist.config.shards import Shards
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.loading.throughput import stage_table
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.sources.named import open_source
from simclr_dist.data.views.geometry import blur_kernel_size

BATCH = 64


def write_photographs(folder: Path, side: int, images: int) -> None:
    """JPEG files of patches of photographs, as ImageFolder wants them: below a folder for a class."""
    found = list(photographs().values())
    generator = np.random.default_rng(0)
    (folder / "photographs").mkdir(parents=True)
    for number in range(images):
        picture = random_patch(found[number % len(found)], side, generator)
        picture.save(folder / "photographs" / f"{number:05}.jpg", quality=90)


def torchvisions_own(folder: Path, view_side: int, interpolation: str = "bilinear") -> Callable[[], int]:
    view = v2.Compose(
        [
            v2.RandomResizedCrop(view_side, interpolation=v2.InterpolationMode(interpolation), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(blur_kernel_size(view_side), (0.1, 2.0))], p=0.5),
            v2.PILToTensor(),
        ]
    )
    images = ImageFolder(str(folder), transform=lambda image: (view(image), view(image)))
    loader = DataLoader(images, batch_size=BATCH, shuffle=True, drop_last=True)
    return lambda: sum(1 for _ in loader)


def ours(folder: Path, view_side: int, images: int, **keys: Any) -> Callable[[], int]:
    batches = view_batches(folder, view_side, images, **keys)
    return lambda: sum(1 for _ in load_steps(batches, range(images // BATCH), workers=0, pin_memory=False))


def view_batches(folder: Path, view_side: int, images: int, **keys: Any) -> ViewBatches:
    recipe = Recipe(global_batch_images=BATCH)
    recipe.data.path, recipe.data.image_size = str(folder), view_side
    recipe.views["global"] = replace(recipe.views["global"], **keys)
    order = SampleOrder(seed=0, images=images, global_batch_images=BATCH)
    return ViewBatches(open_source(recipe.data, Shards()), recipe, order)


def compare(image_side: int, view_side: int, images: int, rounds: int, clock: Callable[[], float]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder, image_side, images)
        contenders = {
            "torchvision": torchvisions_own(folder, view_side),
            "torchvision, bicubic": torchvisions_own(folder, view_side, "bicubic"),
            "exact": ours(folder, view_side, images),
            "affine": ours(folder, view_side, images, color_form="affine"),
            "bicubic": ours(folder, view_side, images, interpolation="bicubic"),
        }
        seconds = in_turn(contenders, rounds, clock=clock)
        steady = images // BATCH * BATCH
        print(f"JPEGs of {image_side} px to two views of {view_side} px, {steady} images, one thread")
        for form in ("exact", "affine"):
            print(f"  torchvision / ours, {form}: {ratio(seconds['torchvision'], seconds[form])}")
        print(f"  torchvision / ours, both bicubic: {ratio(seconds['torchvision, bicubic'], seconds['bicubic'])}")
        print(f"  ours, bicubic / bilinear: {ratio(seconds['bicubic'], seconds['exact'])}")
        rates = {contender: round(steady / statistics.median(times)) for contender, times in seconds.items()}
        print(f"  for orientation, images/s: {rates}")
        for interpolation in ("bilinear", "bicubic"):
            print(f"  {interpolation}")
            print(stage_table(view_batches(folder, view_side, images, interpolation=interpolation), images))


def waiting(images: int, rounds: int) -> None:
    """A run of the command itself, one process and one loader worker: how long its steps wait for data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "images", 96, images)
        config = folder / "bench.yaml"
        config.write_text(f"recipe: {{data: {{source: folder, path: {folder / 'images'}}}}}\n")
        overrides = {
            "recipe.encoder.name": "resnet18",
            "recipe.data.image_size": 96,
            "recipe.global_batch_images": BATCH,
            "recipe.epochs": rounds,
            "recipe.warmup_epochs": 0,
            "machine.run_dir": folder / "run",
            "machine.loader_workers": 1,
            "machine.threads_per_process": 1,
        }
        pairs = [f"{key}={value}" for key, value in overrides.items()]
        subprocess.run([sys.executable, "-m", "simclr_dist", "pretrain", str(config), *pairs], check=True)
        steps = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        shares = [step["data_wait_share"] for step in steps if "data_wait_share" in step]
        print(
            f"ResNet-18, 96 px folder, one worker, {len(shares)} steps: data_wait_share median "
            f"{100 * statistics.median(shares[1:]):.2f} %, of the first step {100 * shares[0]:.1f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["32:32", "96:96", "256:224"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trainer", action="store_true")
    parser.add_argument("--cpu-seconds", action="store_true", help="Of this process: for a machine that others use.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.trainer:
        waiting(options.images, options.rounds)
        return
    for size in options.sizes:
        image_side, view_side = (int(side) for side in size.split(":"))
        clock = time.process_time if options.cpu_seconds else time.perf_counter
        compare(image_side, view_side, options.images, options.rounds, clock)


if __name__ == "__main__":
    main()
