"""Processes of another job take the places of those that a run has lost.

A node that comes back is no longer the job's, whose allocation SLURM has shrunk: a further job brings it to the run.
"""

import secrets
import time
from pathlib import Path
from typing import NamedTuple

from simclr_dist.distributed.folder_store import FolderStore
from simclr_dist.distributed.run_store import RunStore
from simclr_dist.errors import UserError

FOLDER = "members"
"""In the run's folder: what the processes of a start tell each other, in a folder of the start's name."""
_SILENT_SECONDS = 20.0  # twice the silence after which the others go on without a process
_SECONDS_FOR_FIRST = 300.0


class Place(NamedTuple):
    """A process's place in a run."""

    store: FolderStore
    identity: int
    processes: int
    is_guest: bool = False
    """Whether it is in another job's start."""


def place_in(run_dir: Path, start: str, rank: int, count: int) -> Place:
    """The place of a process of this ``start``: its own rank, or that of a lost process of a start that lives.

    Whether there is such a start process 0 decides for all.

    Raises:
        UserError: more processes have come to it than it had lost.
        OSError: the run folder cannot be written.
    """
    own = FolderStore(run_dir / FOLDER / start)
    if rank == 0:
        lives = _living(run_dir, start)
        own.compare_set("joins", "", lives.folder.name if lives else start)
    deadline = time.monotonic() + _SECONDS_FOR_FIRST
    while not (joins := own.get("joins").decode()):
        if time.monotonic() > deadline:
            raise UserError(f"{own.folder}: process 0 has not come in {_SECONDS_FOR_FIRST:.0f} s; see its log")
        time.sleep(0.1)
    if joins == start:
        return Place(own, rank, count)
    other = FolderStore(own.folder.with_name(joins))
    card = secrets.token_hex(8)
    for identity in _lost(other):
        # All that want it have seen the same last sign of life.
        last = other.get(f"alive {identity}").decode().replace("/", " ")
        if other.compare_set(f"place {identity} {last}", "", card) == card.encode():
            return Place(other, identity, _count(other), is_guest=True)
    raise UserError(
        f"{run_dir}: start {joins} is at this run and has lost fewer processes than have come to take their places; "
        "submit no more than it has lost"
    )


def lost_places(run_dir: Path) -> int:
    """How many processes the start that is at a run has lost; 0 as well where none is."""
    lives = _living(run_dir, "")
    return len(_lost(lives)) if lives else 0


def _living(run_dir: Path, start: str) -> FolderStore | None:
    """The store of another start that goes on without a process; not of the same job, which SLURM has started again."""
    of_job = start.partition("_")[0]
    folders = sorted((run_dir / FOLDER).iterdir()) if (run_dir / FOLDER).is_dir() else []
    for folder in folders:
        if folder.name.partition("_")[0] == of_job or not folder.is_dir():
            continue
        store = FolderStore(folder)
        silent = [age > _SILENT_SECONDS for age in _ages(store).values()]
        if RunStore(store).outcome is None and any(silent) and not all(silent):
            return store
    return None


def _count(store: FolderStore) -> int:
    return int(store.get("processes") or 0)


def _lost(store: FolderStore) -> list[int]:
    """Identities that have begun, and are silent."""
    return [identity for identity, age in _ages(store).items() if age > _SILENT_SECONDS]


def _ages(store: FolderStore) -> dict[int, float]:
    """Of those that have begun, seconds since the last sign of life."""
    ages = {identity: store.age(f"alive {identity}") for identity in range(_count(store))}
    return {identity: age for identity, age in ages.items() if age is not None}
