"""Runs as the command starts them: what /proc says of their processes (launcher, trainers, loader workers), what the
file system says of their folder, and how they have ended.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch

from simclr_dist.run import checkpoint
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.run.newest import load_newest

MODEL = """encoder: {name: resnet10, width: 0.25, stem: small}
  method: {name: simclr, temperature: 0.5, projection: {output_dim: 16}}"""
"""The keys of a small encoder and its method, below ``recipe``."""


def start(config: Path, log: Path, **environment: str) -> "subprocess.Popen[bytes]":
    """``pretrain`` in two processes, in a process group of its own."""
    command = [sys.executable, "-m", "simclr_dist", "pretrain", str(config), "--processes", "2"]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def ended(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The newest checkpoint of a run folder, and the metrics of every step up to it, without gaps or repeats."""
    found = load_newest(run / "checkpoints")
    path, complaints = found.path, found.complaints
    assert path is not None, complaints
    state, lines = checkpoint.load(path), read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, state["step"] + 1)), "metrics have gaps or repeats"
    return state, lines


def equal(one: object, other: object) -> bool:
    """Whether two nested states are the same to the bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


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
