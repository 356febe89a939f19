"""A long run that nobody disturbs: does it keep to the memory, threads and open files that it began with?

    python benchmarks/soak.py [--minutes 60] [--every 5] [--folder DIR] [--table FILE] [--picture FILE.png]

A small recipe on a folder of PNGs and JPEGs in two processes with a loader worker each, as the command starts them: a
checkpoint, and a comparison of the processes, every 20 steps, an online evaluation every epoch. Some images are
broken, so that every epoch meets them and draws substitutes. All processes of the run (launcher, trainers, loader
workers) are read from /proc every few seconds. At the end the run is stopped by SIGINT, and its last checkpoint loaded.

flatness.py says what flat is; status 1 when something is not.

The C library keeps freed memory or gives it back as it likes, 40 MB of a trainer here, in which a leak of 10 MB would
drown. The run is therefore started with settings of its allocator with which it gives back all at once; --allocator
as-it-is leaves them out.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from flatness import FLOORS, LOOKS_AT_LEAST, WARM_UP_SHARE, draw, table
from PIL import Image
from real_runs import MODEL, Moment, Sizes, ended, family, look, sizes, start
from sklearn.datasets import load_digits

from simclr_dist.run.metrics_log import last_metrics, read_metrics

RECIPE = """recipe:
  data: {{source: folder, path: {folder}/images, image_size: 24}}
  global_batch_images: 32
  epochs: 1000000
  warmup_epochs: 1
  {model}
  optimizer: {{base_learning_rate: 0.05, learning_rate_scaling: none}}
machine: {{run_dir: {folder}/run, loader_workers: 1, threads_per_process: 1, save_every_steps: 20,
  compare_every_steps: 20, evaluate_every_epochs: 1, max_broken_image_share: 0.05}}
"""
IMAGES, BROKEN, SIDE = 300, 6, 24
PROCESSES = 5  # the launcher, two trainers, a loader worker of each
START_UP_SECONDS = 300.0
STOPPED = 128 + signal.SIGINT
GIVES_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


def write_images(folder: Path) -> None:
    """Tinted digits in class folders below ``train`` and ``test``, PNGs and JPEGs in turn, some of them broken."""
    digits, random = load_digits(), np.random.default_rng(0)
    for number in range(IMAGES):
        grey = np.kron(digits.images[number] / 16, np.ones((SIDE // 8, SIDE // 8)))
        pixels = (255 * grey[:, :, None] * random.uniform(0.3, 1, 3)).astype(np.uint8)
        place = folder / ("test" if number % 5 == 0 else "train") / str(digits.target[number])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number:03}{'.png' if number % 2 else '.jpg'}")
    files = sorted((folder / "train").rglob("*.*"))
    for number, path in enumerate(files[:: len(files) // BROKEN][:BROKEN]):
        path.write_bytes([b"", path.read_bytes()[:100], b"no image\n"][number % 3])


def watch(
    launcher: "subprocess.Popen[bytes]", run: Path, minutes: float, every: float
) -> tuple[dict[str, list[Moment]], list[Sizes]]:
    """The moments of each process, by role, from the first step on, and the sizes of the run folder."""
    begun = time.monotonic()
    while not last_metrics(run / "metrics.jsonl") or len(family(launcher.pid)) < PROCESSES:
        if launcher.poll() is not None or time.monotonic() > begun + START_UP_SECONDS:
            raise SystemExit(f"the run does not begin; see {run.parent / 'soak.log'}")
        time.sleep(0.5)
    begun = time.monotonic()
    processes = family(launcher.pid)
    moments: dict[str, list[Moment]] = {role: [] for role in processes.values()}
    folder = []
    while (now := (time.monotonic() - begun) / 60) < minutes:
        try:
            for process, role in processes.items():
                moments[role].append(look(process, now))
        except (OSError, KeyError):
            raise SystemExit(f"a process of the run has ended; see {run.parent / 'soak.log'}") from None
        folder.append(sizes(run, now))
        time.sleep(every)
    if family(launcher.pid) != processes:
        raise SystemExit(f"the processes are others than at the beginning: {processes}, {family(launcher.pid)}")
    return moments, folder


def stop(launcher: "subprocess.Popen[bytes]", run: Path) -> int:
    """End the run as Ctrl-C does; the steps that its last checkpoint has."""
    os.killpg(launcher.pid, signal.SIGINT)
    status = launcher.wait(timeout=START_UP_SECONDS)
    if status != STOPPED:
        raise SystemExit(f"the stopped run ended with status {status}, not {STOPPED}; see {run.parent / 'soak.log'}")
    return int(ended(run)[0]["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--allocator", choices=("gives-back", "as-it-is"), default="gives-back")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between looks at the processes")
    parser.add_argument("--folder", type=Path, help="where the run stands; default: a temporary folder")
    parser.add_argument("--table", type=Path, help="write the table there too")
    parser.add_argument("--picture", type=Path, help="draw the processes over time, into a PNG")
    options = parser.parse_args()
    if 60 * options.minutes * (1 - WARM_UP_SHARE) < FLOORS * LOOKS_AT_LEAST * options.every:
        parser.error("too few looks to judge by: give more --minutes, or a smaller --every")
    parent = options.folder or Path(tempfile.mkdtemp())
    parent.mkdir(parents=True, exist_ok=True)
    write_images(parent / "images")
    config = parent / "soak.yaml"
    config.write_text(RECIPE.format(folder=parent, model=MODEL))
    launcher = start(config, parent / "soak.log", **(GIVES_BACK if options.allocator == "gives-back" else {}))
    try:
        moments, folder = watch(launcher, parent / "run", options.minutes, options.every)
        steps = stop(launcher, parent / "run")
    finally:
        if launcher.poll() is None:
            os.killpg(launcher.pid, signal.SIGKILL)
    lines = read_metrics(parent / "run" / "metrics.jsonl")
    rates = [line["images_per_second"] for line in lines]
    (parent / "moments.json").write_text(json.dumps({"processes": moments, "folder": folder}))
    text, flat = table(moments)
    if options.picture:
        draw(moments, folder, options.picture)
    broken = parent / "run" / "broken_images.txt"
    print(
        f"{options.minutes:g} minutes, {steps} steps ({int(lines[-1]['epoch'])} epochs), "
        f"{statistics.median(rates):.0f} images/s (median; first tenth of the steps "
        f"{statistics.median(rates[: len(rates) // 10 or 1]):.0f}, last tenth "
        f"{statistics.median(rates[-(len(rates) // 10 or 1) :]):.0f}), "
        f"{len(broken.read_text().splitlines()) if broken.exists() else 0} broken images, run folder: checkpoints "
        f"{folder[0].checkpoints_mb:.1f} then {folder[-1].checkpoints_mb:.1f} MB, the rest {folder[0].rest_mb:.1f} "
        f"then {folder[-1].rest_mb:.1f} MB\nstopped by SIGINT with status {STOPPED}; the checkpoint of step {steps} "
        f"loads\n\n{text}"
    )
    if options.table:
        options.table.write_text(text + "\n")
    if not flat:
        raise SystemExit("not flat")


if __name__ == "__main__":
    main()
