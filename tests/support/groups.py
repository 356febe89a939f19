"""Processes that meet in groups of the project's own, under a launcher's variables, and what may happen to them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from simclr_dist.distributed.watchdog import guard, monitor, progress
from simclr_dist.distributed.watchdog.heartbeats import Heartbeat, HeartbeatStore
from simclr_dist.distributed.watchdog.progress import Progress
from tests.support.processes import Running

written: list[Progress] = []  # by this process to the heartbeat store


@contextmanager
def started(count: int, function: Any, *arguments: Any, folder: Path | None = None) -> Iterator[list[Running]]:
    """``function(rank, count, *arguments)`` in processes that meet at a launcher's store, or as srun's in a folder."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    if folder is not None:
        shared = {"SIMCLR_DIST_RENDEZVOUS": str(folder), "SLURM_STEP_NUM_TASKS": str(count), "SLURM_LOCALID": "0"}
    processes = [
        Running(1, _in_place, shared | {"SLURM_PROCID": str(rank)}, function, rank, count, *arguments)
        for rank in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def _in_place(variables: dict[str, str], function: Any, rank: int, *arguments: Any) -> Any:
    os.environ.update(variables | {"SLURMD_NODENAME": f"node{rank}", "SLURM_STEP_TASKS_PER_NODE": "1"})
    monitor._OBSERVED_SECONDS = monitor._PATIENCE_SECONDS = guard._HEARD_SECONDS = 1.5
    guard._SILENT_SECONDS = 1.5
    write = HeartbeatStore.write

    def noting(store: HeartbeatStore, rank: int, heartbeat: Heartbeat) -> None:
        write(store, rank, heartbeat)
        written.append(heartbeat.progress)

    HeartbeatStore.write = noting  # type: ignore[method-assign]
    return function(rank, *arguments)


def wait_until_heard() -> None:
    """Until the others can have read that this process is here."""
    while written.count(progress.current()) < 4:
        time.sleep(0.01)


def hang() -> None:
    while True:
        time.sleep(0.05)


def die(number: int) -> None:
    os.kill(os.getpid(), number)
