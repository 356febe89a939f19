"""Runs that lose processes at random moments, each against the run that was resized at the same steps.

    python benchmarks/survive.py --out OUT --runs 100
    python benchmarks/survive.py --out OUT --runs 10 recipe.method.name=moco machine.images_per_chunk=16 \\
        recipe.batch_norm_group_images=16
    python benchmarks/survive.py --out OUT --runs 10 --srun

The digits in four processes, of which one to three get SIGKILL at a random moment each, process 0 in a quarter of the
runs; the launcher starts them again after some seconds. Whenever the number of processes changed, a second run is
stopped with a checkpoint and resumed with the other number: weights, optimizer, method state and losses must be equal
to the bit, and metrics.jsonl without gap or repeat. With --srun they are started as srun would, and agree in the run's
folder instead of the launcher's store. OUT/rows.jsonl keeps a line a run; the same command goes on.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from real_runs import ended, equal
from same_settings import same_settings

from simclr_dist.cli.main import main as main_of_command
from simclr_dist.run.metrics_log import read_metrics

PROCESSES = 4
PARTS = ("model", "optimizer", "scaler", "anomalies")


_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["torch", "torchvision", "simclr_dist.cli.main", "simclr_dist.training.trainer"])


def pretrain(run: Path, *keys: str) -> list[str]:
    """The command's words."""
    return [
        "pretrain", "digits_demo", "machine.device=cpu", "machine.threads_per_process=1", "machine.loader_workers=1",
        "machine.save_every_steps=10", f"machine.run_dir={run}", *keys,
    ]  # fmt: skip


def start(words: list[str], *, srun: bool) -> list[str]:
    """What starts them in all processes."""
    if srun:
        return [sys.executable, str(Path(__file__).with_name("pretended_srun.py")), str(PROCESSES), *words]
    return [sys.executable, "-m", "simclr_dist", *words, "--processes", str(PROCESSES)]


def children(launcher: int) -> dict[int, int]:
    """Rank -> process id, of those that live; one that was started again has its rank and a late number."""
    found = {}
    for pid in Path("/proc").glob("[0-9]*"):
        try:
            status = (pid / "stat").read_text().rpartition(")")[2].split()
            environment = (pid / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        of_rank = (b"RANK=", b"SLURM_PROCID=")
        ranks = [int(each.partition(b"=")[2]) for each in environment if each.startswith(of_rank)]
        if ranks and status[0] != "Z" and int(status[1]) == launcher:
            found[ranks[0]] = int(pid.name)
    return found


def lose_some(
    run: Path, total: int, keys: list[str], draws: random.Random, log: Path, *, srun: bool
) -> tuple[int, list[Any], float]:
    """The run, some of its processes killed: its status, who was killed after which step, and for how many seconds no
    step was written at most, from the first on: what a loss costs in all."""
    number = draws.randint(1, PROCESSES - 1)
    victims = draws.sample(range(1, PROCESSES), number)
    if draws.random() < 0.25:
        victims[0] = 0
    after = sorted(draws.uniform(1, 0.8 * total) for _ in victims)
    deaths = []
    steps, written, pause = 0, time.monotonic(), 0.0
    with log.open("w") as output:
        process = subprocess.Popen(
            start(pretrain(run, "machine.on_lost_process=go_on", *keys), srun=srun), stdout=output, stderr=output
        )
        while process.poll() is None:
            done = len(read_metrics(run / "metrics.jsonl"))
            if done != steps:
                steps, written = done, time.monotonic()
            elif 0 < steps < total:
                pause = max(pause, time.monotonic() - written)
            if after and done >= after[0]:
                time.sleep(draws.uniform(0, 0.5))  # anywhere in a step, or in the answer to an earlier loss
                if pid := children(process.pid).get(victims[0]):
                    os.kill(pid, signal.SIGKILL)
                    deaths.append((victims[0], done))
                after.pop(0)
                victims.pop(0)
            time.sleep(0.02)
    return process.returncode, deaths, pause


def resized(run: Path, other: Path, keys: list[str]) -> None:
    """The same run through checkpoints, stopped wherever ``run`` went on with another number of processes.

    As torchrun would start it, but forked from a server that has torch loaded: half of the time were imports.
    """
    for count, lines in groupby(read_metrics(run / "metrics.jsonl"), key=lambda line: int(line["processes"])):
        words = pretrain(other, f"machine.stop_after_steps={list(lines)[-1]['step']}", *keys)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        store = {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        processes = [
            _FORKED.Process(target=run_here, args=(words, {**store, "RANK": str(rank), "LOCAL_RANK": str(rank)}))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert not any(process.exitcode for process in processes), f"{count} processes ended with an error"


def run_here(words: list[str], environment: dict[str, str]) -> None:
    """The command in this process, silent."""
    os.environ.update(environment)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        main_of_command(words)


def difference(run: Path, other: Path, total: int) -> str:
    """What differs between two runs that have ended; "" where they are the same to the bit."""
    (state, lines), (expected, of_other) = ended(run), ended(other)
    if len(lines) != total or [line["loss"] for line in lines] != [line["loss"] for line in of_other]:
        return "losses"
    return ", ".join(part for part in PARTS if not equal(state.get(part), expected.get(part)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("keys", nargs="*", help="KEY=VALUE of all runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first run: another machine does others")
    parser.add_argument("--epochs", type=int, default=5, help="of 11 steps")
    parser.add_argument("--srun", action="store_true", help="as srun would start them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    same_settings(options.out, {"keys": options.keys, "epochs": options.epochs, "srun": options.srun})
    rows = options.out / "rows.jsonl"
    done = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    keys = [f"recipe.epochs={options.epochs}", "recipe.warmup_epochs=1", *options.keys]
    total = 11 * options.epochs
    for number in range(options.first + len(done), options.first + options.runs):
        run, other = options.out / "run", options.out / "resized"
        for folder in (run, other):
            shutil.rmtree(folder, ignore_errors=True)
        log = options.out / f"{number}.log"
        status, deaths, pause = lose_some(run, total, keys, random.Random(number), log, srun=options.srun)
        text = log.read_text()
        row: dict[str, Any] = {
            "run": number,
            "status": status,
            "killed": deaths,
            "processes": [int(line["processes"]) for line in read_metrics(run / "metrics.jsonl")],
            "gaps": [float(found) for found in re.findall(r"go on, ([\d.]+) s after", text)],
            "pause": pause,
            "grown": text.count("4 go on from"),
        }
        if status == 0:
            resized(run, other, keys)
            row["differs"] = difference(run, other, total)
        done.append(row)
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        changes = [count for count, _ in groupby(row["processes"])]
        print(
            f"{number}: status {status}; killed (process, after step) {deaths}; processes {changes}; "
            f"gaps {row['gaps']} s, longest pause {pause:.1f} s; "
            f"{'differs: ' + row['differs'] if row.get('differs') else 'equal to the bit'}"
            if status == 0
            else f"{number}: status {status}, see {log}",
            flush=True,
        )
    good = [row for row in done if row["status"] == 0 and not row.get("differs")]
    pauses = [row["pause"] for row in done if "pause" in row] or [0.0]
    gaps = [gap for row in done for gap in row["gaps"]] or [0.0]
    print(
        f"{len(good)} of {len(done)} runs finished without a new start and are equal to the bit; "
        f"{sum(len(row['killed']) for row in done)} processes killed, process 0 in "
        f"{sum(any(rank == 0 for rank, _ in row['killed']) for row in done)} runs; "
        f"{sum(row['grown'] for row in done)} times back to four; "
        f"gap {median(gaps):.1f} s in the median, {max(gaps):.1f} s at most; longest pause of a run "
        f"{median(pauses):.1f} s in the median, {max(pauses):.1f} s at most"
    )


if __name__ == "__main__":
    main()
