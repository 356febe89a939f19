"""Kill runs until they have ended: each must end equal to the bit to the run that nobody disturbed.

    python benchmarks/drill.py [--runs 100] [--at-once 2] [--seed 0] [--folder DIR] [--table FILE]

Every run is a small recipe on the digits in two processes, as the command starts them. It is killed with SIGKILL (one
process, or all with their launcher) at a moment of its kind: at any time, while a checkpoint is written, while one is
loaded, during an online evaluation, while the launcher starts; then started again, killed again, and at last left
alone. Weights, optimizer and losses are compared with the undisturbed run's. Every run is reported; a run that ends
otherwise stops the drill with status 1 and leaves its folder.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from real_runs import MODEL, ended, equal, family, start

from simclr_dist.run.metrics_log import last_metrics

RECIPE = """recipe:
  data: {{source: digits, image_size: 8}}
  global_batch_images: 32
  epochs: 3
  warmup_epochs: 1
  {model}
  optimizer: {{base_learning_rate: 0.2, learning_rate_scaling: none}}
machine: {{run_dir: {folder}, loader_workers: 1, threads_per_process: 1, save_every_steps: 10,
  evaluate_every_epochs: 1}}
"""
EPOCH, STEPS = 44, 132
START_UP_SECONDS = 30.0


class Run:
    """One run folder, started again as often as it is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder.with_suffix(".yaml")
        self.config.write_text(RECIPE.format(folder=folder, model=MODEL))
        self.log = folder.with_suffix(".log")

    def start(self) -> "subprocess.Popen[bytes]":
        return start(self.config, self.log)

    def step(self) -> int:
        return int(last_metrics(self.folder / "metrics.jsonl").get("step", 0))

    def is_writing(self) -> bool:
        return any((self.folder / "checkpoints").glob(".step_*.tmp"))

    def result(self) -> tuple[dict[str, object], list[float]]:
        state, lines = ended(self.folder)
        assert len(lines) == STEPS
        return state, [line["loss"] for line in lines]


def moments(run: Run, draw: random.Random) -> dict[str, Callable[[float], bool]]:
    """Kinds of moments; each says, given the seconds since the start, whether it is now."""
    begun, pause = run.step(), draw.uniform(0, 3)
    step = min(STEPS - 1, begun + draw.randint(1, 40))
    look = min(STEPS - 1, EPOCH * (begun // EPOCH + 1))
    return {
        "at any step": lambda seconds: run.step() >= step,
        "while a checkpoint is written": lambda seconds: run.step() > begun and run.is_writing(),
        # From the start of the processes until their first step.
        "while it starts and loads": lambda seconds: seconds > 3 + 2 * pause,
        "during an online evaluation": lambda seconds: run.step() >= look - 1,
        "while the launcher starts": lambda seconds: seconds > pause / 3,
    }


def kill(process: "subprocess.Popen[bytes]", draw: random.Random) -> str:
    """SIGKILL to one process of the run, or to all of them at once; which."""
    workers = [each for each in family(process.pid) if each != process.pid]
    if workers and draw.random() < 0.5:
        os.kill(draw.choice(workers), signal.SIGKILL)
        process.wait()  # the launcher ends the others
        return "one process"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "all"


def disturbed(run: Run, draw: random.Random) -> list[str]:
    """Start a run and kill it one to three times, then let it end; what was done to it."""
    done = []
    for _ in range(draw.randint(1, 3)):
        kind, is_now = draw.choice(list(moments(run, draw).items()))
        process, started = run.start(), time.monotonic()
        while process.poll() is None and not is_now(time.monotonic() - started):
            time.sleep(0.002)
            if time.monotonic() > started + 10 * START_UP_SECONDS:
                raise SystemExit(f"{run.folder}: no progress; see {run.log}")
        if process.poll() is None:
            done.append(f"{kind}: {kill(process, draw)}")
    status = run.start().wait()
    if status:
        raise SystemExit(f"{run.folder}: ended with status {status} after {done}; see {run.log}")
    return done


def drilled(number: int, parent: Path, seed: int, expected: tuple[object, ...]) -> list[str]:
    """Disturb one run, and compare how it ends; what was done to it."""
    run = Run(parent / f"run_{number:03d}")
    done = disturbed(run, random.Random(f"{seed} {number}"))
    if not all(equal(one, other) for one, other in zip(expected, run.result(), strict=True)):
        raise SystemExit(f"{run.folder}: differs from the undisturbed run after {done}")
    shutil.rmtree(run.folder)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side: most of their time is starting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs stand; default: a temporary folder")
    parser.add_argument("--table", type=Path, help="write the table there too")
    options = parser.parse_args()
    parent = options.folder or Path(tempfile.mkdtemp())
    parent.mkdir(parents=True, exist_ok=True)
    undisturbed = Run(parent / "undisturbed")
    if undisturbed.start().wait():
        raise SystemExit(f"the undisturbed run failed; see {undisturbed.log}")
    expected = undisturbed.result()
    counted: Counter[str] = Counter()
    with ThreadPoolExecutor(options.at_once) as pool:
        runs = [pool.submit(drilled, number, parent, options.seed, expected) for number in range(options.runs)]
        try:
            for number, each in enumerate(as_completed(runs), 1):
                done = each.result()
                counted.update(done)
                told = "; ".join(done) or "nothing"
                print(f"{number} of {options.runs} runs: equal to the bit after {told}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows = [f"| {kind} | {count} |" for kind, count in sorted(counted.items())]
    text = "\n".join(["| killed | times |", "| --- | --- |", *rows])
    print(f"{options.runs} of {options.runs} runs end equal to the bit\n\n{text}")
    if options.table:
        options.table.write_text(text + "\n")


if __name__ == "__main__":
    main()
