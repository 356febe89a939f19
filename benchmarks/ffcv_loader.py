"""Source ffcv beside source beton on the same .beton files, and beside ffcv's own pipeline as its users run it.

    ./script/setup_ffcv     (the photographs are scikit-image's and scikit-learn's: pip install .[dev])
    python benchmarks/ffcv_loader.py [--sizes 96:96 256:224] [--modes jpeg raw] [--images 6144] [--threads 1]
                                     [--rounds 5] [--cpu-seconds]

Images a second of two full SimCLR views, of two crops without colours (views_on_device), and of ffcv's own crop and
flip, for which it decodes each image twice. All contenders live in one process and take turns; ratios are of one round.
With one thread, source beton runs without workers, else with as many.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from loader import BATCH, write_photographs
from side_by_side import in_turn, ratio

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.shards import Shards
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.ffcv_process import process_put_back
from simclr_dist.data.loading.ffcv_steps import load_views
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.sources.beton.encoding import Encoding
from simclr_dist.data.sources.beton.writer import write_beton
from simclr_dist.data.sources.named import open_source

ENDLESS = range(1_000_000_000)
SETTLE_SECONDS = 1.0
OWN = "ffcv's own"


def view_batches(source: str, path: Path, side: int, images: int, colors: bool) -> ViewBatches:
    recipe = Recipe(global_batch_images=BATCH, data=Data(source=source, path=str(path), image_size=side))
    order = SampleOrder(seed=0, images=images, global_batch_images=BATCH)
    return ViewBatches(open_source(recipe.data, Shards()), recipe, order, colors=colors)


def turn(batches: Iterator[Any], count: int) -> Callable[[], None]:
    """So many batches; then the loader fills up again what it makes ahead, so that no turn has another's work."""

    def take() -> None:
        for _ in range(count):
            next(batches)
        time.sleep(SETTLE_SECONDS)

    return take


def compare(mode: str, image_side: int, side: int, images: int, threads: int, rounds: int, cpu_seconds: bool) -> None:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, path = Path(name), Path(name) / "set.beton"
        write_photographs(folder / "images", image_side, images)
        source = open_source(Data(source="folder", path=str(folder / "images")), Shards())
        write_beton(source, path, Encoding(mode=mode, max_side=0))
        contenders: dict[str, Iterator[Any]] = {}
        for colors in (True, False):
            kind = "" if colors else ", crops alone"
            for each in ("beton", "ffcv"):
                batches = view_batches(each, path, side, images, colors)
                workers = threads if each == "ffcv" or threads > 1 else 0
                loaded = load_views(batches, ENDLESS, workers=workers, pin_memory=False)
                contenders[each + kind] = stack.enter_context(closing(loaded))
        with process_put_back():
            from simclr_dist.data.loading.ffcv_own import own_batches, own_loader

            own = own_loader(replace(batches, colors=True), threads)
        contenders[OWN] = stack.enter_context(own_batches(own))
        firsts = {}
        for name_, found in contenders.items():
            started = time.perf_counter()
            next(found)
            firsts[name_] = time.perf_counter() - started
        count = images // BATCH
        clock = time.process_time if cpu_seconds else time.perf_counter
        seconds = in_turn({each: turn(found, count) for each, found in contenders.items()}, rounds, clock=clock)
        if not cpu_seconds:
            seconds = {each: [second - SETTLE_SECONDS for second in times] for each, times in seconds.items()}
        unit = "CPU second" if cpu_seconds else "second"
        print(f"{mode}, {image_side} px to two views of {side} px, {threads} thread(s), {count * BATCH} images a turn")
        for each, times in seconds.items():
            rates = sorted(count * BATCH / second for second in times)
            print(
                f"  {each:20} {statistics.median(rates):8,.0f} images a {unit} ({rates[0]:,.0f}-{rates[-1]:,.0f}); "
                f"first batch after {firsts[each]:.1f} s"
            )
        print(f"  beton / ffcv: {ratio(seconds['beton'], seconds['ffcv'])}")
        print(f"  beton / ffcv, crops alone: {ratio(seconds['beton, crops alone'], seconds['ffcv, crops alone'])}")
        print(f"  ffcv's own / ffcv, crops alone: {ratio(seconds[OWN], seconds['ffcv, crops alone'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["96:96", "256:224"])
    parser.add_argument("--modes", nargs="+", default=["jpeg", "raw"])
    parser.add_argument("--images", type=int, default=6144, help="Of a turn: few of them are made ahead.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-seconds", action="store_true", help="Of this process: for a machine that others use.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for mode in options.modes:
        for size in options.sizes:
            image_side, side = (int(each) for each in size.split(":"))
            compare(mode, image_side, side, options.images, options.threads, options.rounds, options.cpu_seconds)


if __name__ == "__main__":
    main()
