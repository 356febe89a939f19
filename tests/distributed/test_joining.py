"""Who takes the places of the processes that a run has lost, by what the run has left in its folder."""

import os
import time
from pathlib import Path

import pytest

from simclr_dist.distributed.folder_store import FolderStore
from simclr_dist.distributed.joining import lost_places, place_in
from simclr_dist.distributed.run_store import RunStore
from simclr_dist.errors import UserError

START = "12_0_0"


def start(run: Path, silent: dict[int, float], name: str = START, count: int = 4) -> FolderStore:
    """What the processes of a start have written, which have been silent for so many seconds each."""
    store = FolderStore(run / "members" / name)
    for identity, seconds in silent.items():
        RunStore(store).begin(identity, count, f"card {identity}")
        heard = time.time() - seconds
        os.utime(store.folder / f"alive_{identity}", (heard, heard))
    return store


def test_processes_of_another_job_take_the_places_of_lost_ones_each_its_own(tmp_path):
    lives = start(tmp_path, {0: 0, 1: 60, 2: 0, 3: 60})
    assert lost_places(tmp_path) == 2
    found = [place_in(tmp_path, "13_0_0", rank, 3) for rank in range(2)]
    assert [(each.store.folder, each.identity, each.processes) for each in found] == [
        (lives.folder, 1, 4), (lives.folder, 3, 4)
    ]  # fmt: skip
    assert all(each.is_guest for each in found)
    with pytest.raises(UserError, match="lost fewer processes"):
        place_in(tmp_path, "13_0_0", 2, 3)


@pytest.mark.parametrize(
    "silent",
    [
        {},  # nobody is there
        {0: 0, 1: 0},  # two have not come yet
        {0: 60, 1: 60, 2: 60, 3: 60},  # all have ended
        {0: 60, 1: 60, 2: 60},  # and one of them had never begun
    ],
)
def test_without_a_start_that_lives_and_has_lost_a_process_a_job_is_a_start_of_its_own(tmp_path, silent):
    start(tmp_path, silent)
    assert lost_places(tmp_path) == 0
    place_in(tmp_path, "13_0_0", 0, 2)
    place = place_in(tmp_path, "13_0_0", 1, 2)
    assert (place.store.folder.name, place.identity, place.processes) == ("13_0_0", 1, 2)


def test_nobody_joins_a_run_that_is_over_or_what_is_left_of_an_earlier_start_of_its_own_job(tmp_path):
    over = start(tmp_path, {0: 0, 1: 60, 2: 0, 3: 0})
    assert place_in(tmp_path, "12_0_1", 0, 1).store.folder.name == "12_0_1"
    RunStore(over).end({})
    assert place_in(tmp_path, "13_0_0", 0, 1).store.folder.name == "13_0_0"
