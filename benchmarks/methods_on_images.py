"""Every method on the same images: kNN, linear probe, RankMe, seconds and memory of a step, in one table.

    python benchmarks/methods_on_images.py --out OUT --data /usr/share/datasets/fashion-mnist
    python benchmarks/methods_on_images.py --out OUT --methods simclr byol --seeds 0 1 2 3 4
    python benchmarks/methods_on_images.py --out OUT --data DIR --device cuda --encoder resnet18 --width 1 \\
        --epochs 60 --processes-at-once 5 --workers 3 --minutes 9

One recipe a method (image_recipes.py), the same encoder, images, epochs and views. First a step of each is timed, in
turn in one process with its images at hand; then the runs, several at once if asked, each evaluated on the test
images; beside them raw pixels and the untrained encoder. OUT keeps everything: what is there is not done again, a run
that was stopped resumes, one that failed is a row with its reason and is tried anew at the next start. OUT/table.md and
OUT/table.json are written after every run. --minutes: then no more is started, and what runs is stopped and saved.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from image_recipes import IMAGES, SOURCE, known_methods
from methods_table import write_table
from same_settings import same_settings

STOPPED = 75  # as image_runs.py says: saved, and to be resumed
GRACE_SECONDS = 30.0
"""For runs that are stopped to save."""


class Job:
    """A process of image_runs.py, its output in a log of its own."""

    def __init__(self, name: str, kind: str, out: Path, given: dict[str, Any], options: argparse.Namespace) -> None:
        self.name, self.given, self.out, self.log = name, given, out, out / "logs" / f"{name}.txt"
        self.log.parent.mkdir(exist_ok=True)
        self.started = time.monotonic()
        command = [sys.executable, str(Path(__file__).with_name("image_runs.py")), kind, str(out), json.dumps(given)]
        environment = {**os.environ, SOURCE: options.source, IMAGES: str(options.images)}
        environment.setdefault("OMP_NUM_THREADS", str(options.threads))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def stop(self) -> None:
        """Wait for one that was asked to stop; end it where it does not, as at its start. It goes on the next time."""
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        print(f"{self.name}: stopped", flush=True)

    def report(self) -> None:
        """How it ended, in a line; the row of a run that died without one."""
        status, seconds = self.process.returncode, time.monotonic() - self.started
        print(
            f"{self.name}: {'done' if not status else f'status {status}, see {self.log}'} ({seconds:.0f} s)", flush=True
        )
        row = self.out / "rows" / f"{self.name}.json"
        if "method" in self.given and status not in (0, STOPPED) and not row.exists():
            row.parent.mkdir(exist_ok=True)
            error = f"ended with status {status}"
            row.write_text(json.dumps({"method": self.given["method"], "seed": self.given["seed"], "error": error}))


def wanted(out: Path, options: argparse.Namespace) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, kind, arguments) of what is not there yet, in the order in which it is done."""
    overrides = overrides_of(options)
    jobs: list[tuple[str, str, dict[str, Any]]] = []
    timed = json.loads((out / "steps.json").read_text()) if (out / "steps.json").exists() else {}
    if options.rounds and not set(options.methods) <= {name for name, step in timed.items() if "error" not in step}:
        jobs.append(("steps", "steps", {"methods": options.methods, "overrides": overrides, "rounds": options.rounds}))
    if not (out / "rows" / "untrained.json").exists():
        jobs.append(("references", "references", {"overrides": overrides}))
    for seed in options.seeds:
        for method in options.methods:
            row = out / "rows" / f"{method}_{seed}.json"
            if not row.exists() or "error" in json.loads(row.read_text()):
                jobs.append((f"{method}_{seed}", "run", {"method": method, "seed": seed, "overrides": overrides}))
    return jobs


def overrides_of(options: argparse.Namespace) -> list[str]:
    return [
        f"recipe.data.path={options.data.resolve()}", f"recipe.data.image_size={options.image_size}",
        f"recipe.epochs={options.epochs}", f"recipe.global_batch_images={options.batch}",
        f"recipe.encoder.name={options.encoder}", f"recipe.encoder.width={options.width}",
        f"machine.device={options.device}", f"machine.precision={options.precision}",
        f"machine.loader_workers={options.workers}", f"machine.threads_per_process={options.threads}",
        "machine.channels_last=true", "machine.save_every_steps=2000", "machine.keep_checkpoints=1", *options.override,
    ]  # fmt: skip


def same_comparison(out: Path, options: argparse.Namespace) -> None:
    """Refuse a folder of a comparison with other settings; how many runs go at once is none."""
    keys = ("source", "images", "epochs", "batch", "image_size", "encoder", "width", "precision", "device", "override")
    same_settings(out, {key: getattr(options, key) for key in keys})


def work(jobs: list[tuple[str, str, dict[str, Any]]], out: Path, options: argparse.Namespace) -> None:
    """Do them, several at once (timings alone), until the time is over."""
    ends = time.monotonic() + 60 * options.minutes - GRACE_SECONDS if options.minutes else float("inf")
    running: list[Job] = []
    try:
        while (jobs or running) and time.monotonic() < ends:
            alone = any(job.name == "steps" for job in running) or (
                bool(running) and bool(jobs) and jobs[0][0] == "steps"
            )
            if jobs and not alone and len(running) < options.processes_at_once:
                name, kind, given = jobs.pop(0)
                running.append(Job(name, kind, out, given, options))
                continue
            time.sleep(0.2)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                job.report()
                write_table(out)
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.stop()
    if jobs or running:
        names = ", ".join([*(job.name for job in running), *(name for name, _, _ in jobs)])
        print(f"the time is over; the same command does the rest: {names}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--source", default="fashion_mnist")
    parser.add_argument("--images", type=int, default=10_000, help="of the training images, a fixed part")
    parser.add_argument("--methods", nargs="+", choices=known_methods(), default=known_methods())
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--encoder", default="resnet10")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="in which steps are timed; 0: not at all")
    parser.add_argument("--processes-at-once", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="loader workers of a run")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    parser.add_argument("--minutes", type=float, default=0, help="for all of this start; 0: as long as it takes")
    parser.add_argument("--override", nargs="*", default=[], metavar="KEY=VALUE", help="of every recipe")
    options = parser.parse_args()
    options.methods = [name for name in known_methods() if name in options.methods]
    options.out.mkdir(parents=True, exist_ok=True)
    same_comparison(options.out, options)
    work(wanted(options.out, options), options.out, options)
    write_table(options.out)
    print((options.out / "table.md").read_text())


if __name__ == "__main__":
    main()
