"""A long run that nobody disturbs: does it keep to the memory, threads and open files that it began with?

    python benchmarks/soak.py [--minutes 60] [--every 5] [--folder DIR] [--table FILE] [--picture FILE.png]

A small recipe on a folder of PNGs and JPEGs in two processes with a loader worker each, as the command starts them: a
checkpoint, and a comparison of the processes, every 20 steps, a look at the encoder every epoch. Some images are
broken, so that every epoch meets them and draws substitutes. All processes of the run (launcher, trainers, loader
workers) are read from /proc every few seconds. At the end the run is stopped by SIGINT, and its last checkpoint loaded.

Memory is the anonymous resident memory (RssAnon): pages of files belong to the system's cache. The first fifth of the
time is warm-up and left out. What leaks is never given back, so it raises the floor: the least memory seen in each
tenth of the rest. The slope is the median of the slopes between all pairs of these (Theil-Sen); memory is flat when
it grows, at that slope, by less than 3 % and less than 10 MB over the time measured. Threads and open files
come and go with every checkpoint and batch: flat is that the last quarter shows no more of them than the first, in the
median. Status 1 when something is not flat.

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
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from simclr_dist import checkpoint
from simclr_dist.metrics import last_metrics, read_metrics

RECIPE = """recipe:
  data: {{source: folder, path: {folder}/images, image_size: 24}}
  global_batch_images: 32
  epochs: 1000000
  warmup_epochs: 1
  encoder: {{name: resnet10, width: 0.25, stem: small}}
  projection: {{output_dim: 16}}
  loss: {{temperature: 0.5}}
  optimizer: {{base_learning_rate: 0.05, learning_rate_scaling: none}}
machine: {{run_dir: {folder}/run, loader_workers: 1, threads_per_process: 1, save_every_steps: 20,
  compare_every_steps: 20, evaluate_every_epochs: 1, max_broken_image_share: 0.05}}
"""
IMAGES, BROKEN, SIDE = 300, 6, 24
PROCESSES = 5  # the launcher, two trainers, a loader worker of each
START_UP_SECONDS = 300.0
WARM_UP_SHARE = 0.2
FLOORS, LOOKS_AT_LEAST = 10, 5
GROWTH_SHARE, GROWTH_MB = 0.03, 10.0
STOPPED = 128 + signal.SIGINT
GIVES_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


class Moment(NamedTuple):
    """What /proc says of one process at one time."""

    minutes: float
    memory_mb: float
    resident_mb: float
    threads: int
    files: int


class Sizes(NamedTuple):
    """Of the run folder at one time."""

    minutes: float
    checkpoints_mb: float
    rest_mb: float


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


def start(folder: Path, allocator: dict[str, str]) -> "subprocess.Popen[bytes]":
    config = folder / "soak.yaml"
    config.write_text(RECIPE.format(folder=folder))
    command = [sys.executable, "-m", "simclr_dist", "pretrain", str(config), "--processes", "2"]
    with (folder / "soak.log").open("ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **allocator, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- looking


def family(launcher: int) -> dict[int, str]:
    """Process number -> role, of the launcher and all that it and the trainers started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it has just ended
    trainers = sorted(process for process, parent in parents.items() if parent == launcher)  # in the order of ranks
    roles = {launcher: "launcher"} | {process: f"trainer {rank}" for rank, process in enumerate(trainers)}
    workers = sorted(process for process, parent in parents.items() if parent in trainers)
    return roles | {process: f"loader worker of {trainers.index(parents[process])}" for process in workers}


def look(process: int, minutes: float) -> Moment:
    place = Path("/proc", str(process))
    facts = dict(line.partition(":")[::2] for line in (place / "status").read_text().splitlines())
    memory, resident = (int(facts[key].split()[0]) / 1024 for key in ("RssAnon", "VmRSS"))
    return Moment(minutes, memory, resident, int(facts["Threads"]), len(list((place / "fd").iterdir())))


def sizes(run: Path, minutes: float) -> Sizes:
    found = {True: 0, False: 0}
    for path in run.rglob("*"):
        try:
            found["checkpoints" in path.parts] += path.stat().st_size
        except OSError:
            continue  # a checkpoint that has got its name, or an old one that is gone
    return Sizes(minutes, found[True] / 1e6, found[False] / 1e6)


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
    path, complaints = checkpoint.newest_intact(run / "checkpoints")
    assert path is not None, complaints
    steps = int(checkpoint.load(path)["step"])
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, steps + 1)), "metrics have gaps or repeats"
    return steps


# ---------------------------------------------------------------------------------------------- judging


def slope(times: list[float], values: list[float]) -> float:
    """Theil-Sen: a moment that is out of line hardly moves it."""
    t, v = np.array(times), np.array(values)
    first, second = np.triu_indices(len(t), 1)
    return float(np.median((v[second] - v[first]) / (t[second] - t[first])))


def judged(moments: list[Moment]) -> tuple[list[str], bool]:
    """The cells of one process's row, and whether all of it is flat."""
    length = moments[-1].minutes
    measured = [each for each in moments if each.minutes >= WARM_UP_SHARE * length]
    quarter = max(1, len(measured) // 4)
    first, last = measured[:quarter], measured[-quarter:]
    parts = np.array_split(np.array([(each.minutes, each.memory_mb) for each in measured]), FLOORS)
    per_minute = slope([float(part[:, 0].mean()) for part in parts], [float(part[:, 1].min()) for part in parts])
    before, after = (statistics.median(each.memory_mb for each in part) for part in (first, last))
    growth = per_minute * (length - measured[0].minutes)
    flat = growth < min(GROWTH_SHARE * before, GROWTH_MB)
    cells = [f"{before:.1f}", f"{after:.1f}", f"{60 * per_minute:+.2f}"]
    for name in ("threads", "files"):
        early, late = (statistics.median(getattr(each, name) for each in part) for part in (first, last))
        cells.append(f"{early:g}, {late:g} ({max(getattr(each, name) for each in measured)})")
        flat = flat and late <= early
    return [*cells, "flat" if flat else "**not flat**"], flat


def table(moments: dict[str, list[Moment]]) -> tuple[str, bool]:
    """A row for each process, and whether all of them are flat."""
    rows, all_flat = [], True
    for role, each in moments.items():
        cells, flat = judged(each)
        rows.append(f"| {role} | {' | '.join(cells)} |")
        all_flat = all_flat and flat
    head = (
        "| process | memory of the first quarter, MB | of the last | MB an hour "
        "| threads of the first quarter, of the last (at most) | open files, likewise | |"
    )
    return "\n".join([head, "| --- | --- | --- | --- | --- | --- | --- |", *rows]), all_flat


def draw(moments: dict[str, list[Moment]], folder: list[Sizes], path: Path) -> None:
    """Memory, threads, files of each process and the size of the run folder, against minutes.

    Memory is drawn beside its own median: in the whole of it megabytes could not be seen.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(4, 1, figsize=(8, 10), sharex=True, layout="constrained")
    for role, each in moments.items():
        minutes, memory = [m.minutes for m in each], [m.memory_mb for m in each]
        usual = statistics.median(memory[len(memory) // 5 :])
        axes[0].plot(minutes, [value - usual for value in memory], label=f"{role}: {usual:.0f} MB", linewidth=1)
        axes[1].plot(minutes, [m.threads for m in each], linewidth=1)
        axes[2].plot(minutes, [m.files for m in each], linewidth=1)
    axes[0].set(ylabel="RssAnon beside its median, MB")
    axes[1].set(ylabel="threads", ylim=(0, None))
    axes[2].set(ylabel="open files", ylim=(0, None))
    axes[0].legend(fontsize="small", ncols=2)
    for name, label in (("checkpoints_mb", "checkpoints"), ("rest_mb", "metrics, TensorBoard, log")):
        axes[3].plot([each.minutes for each in folder], [getattr(each, name) for each in folder], label=label)
    axes[3].set(ylabel="run folder, MB", xlabel="minutes", ylim=(0, None))
    axes[3].legend(fontsize="small")
    figure.savefig(path, dpi=120)


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
    launcher = start(parent, GIVES_BACK if options.allocator == "gives-back" else {})
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
