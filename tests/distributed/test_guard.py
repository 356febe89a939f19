"""Where a collective raises nothing, as with NCCL: who is lost is said all the same, and nobody waits for nothing."""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from simclr_dist.cli import main as cli
from simclr_dist.distributed import ending
from simclr_dist.distributed.collectives import gather_stacked
from simclr_dist.distributed.processes import Processes, _leave_judgement_to_guard, process_group
from simclr_dist.distributed.watchdog import guard, progress
from simclr_dist.distributed.watchdog.diagnosis import is_lost, is_silent
from simclr_dist.distributed.watchdog.guard import _Guard
from simclr_dist.distributed.watchdog.heartbeats import LEFT, WORKS, Heartbeat
from simclr_dist.distributed.watchdog.monitor import LostProcesses
from simclr_dist.distributed.watchdog.progress import Progress
from simclr_dist.errors import UserError
from simclr_dist.models.statistics_group import divide_batch_norm
from tests.support.groups import die, hang, started, wait_until_heard

CPU = torch.device("cpu")
LONG = 600  # seconds, which no test waits


def wait_in_vain(rank: int, count: int, folder: Path) -> None:
    sys.stderr = (folder / f"errors_{rank}").open("w")
    with process_group(Processes(rank, count, 0, 1), CPU, 2, ends_itself=True):
        progress.begin_step(1)
        gather_stacked(torch.ones(2), label="rows of the loss")
        if rank == 0:  # a collective of NCCL: it raises nothing, whoever is lost
            progress.begin_collective("sums of the loss")
        hang()


def test_where_the_backend_raises_nothing_a_thread_ends_the_process_with_the_line(tmp_path):
    with started(2, wait_in_vain, tmp_path) as processes:
        for process in processes:  # that which hangs, too
            process.processes[0].join(60)
        assert [process.processes[0].exitcode for process in processes] == [2, 2]
    first, second = (tmp_path / "errors_0").read_text(), (tmp_path / "errors_1").read_text()
    assert first.startswith("simclr-dist: process 1 on node1 has not answered for 2 s")
    assert "it gives signs of life but hangs; it is in step 1, its last collective 'rows of the loss'" in first
    assert second == first.replace("simclr-dist:", "simclr-dist (process 1):")
    assert len(first.splitlines()) == 1


def work_alone(rank: int, count: int) -> int:
    """Is as far as the others until the thread has diagnosed, twice as long as a collective may wait."""
    diagnoses = []
    diagnose_ = LostProcesses._diagnose

    def counted(lost: Any, *arguments: Any) -> str | None:
        diagnoses.append(diagnose_(lost, *arguments))
        return diagnoses[-1]

    LostProcesses._diagnose = counted  # type: ignore[method-assign]
    with process_group(Processes(rank, count, 0, 1), CPU, 2, ends_itself=True):
        gather_stacked(torch.ones(2))
        while not diagnoses:
            time.sleep(0.05)
        gather_stacked(torch.ones(2))
    return len([line for line in diagnoses if line is None])


def test_the_thread_leaves_processes_alone_that_are_all_busy_with_equal_progress():
    with started(2, work_alone) as processes:
        assert all(process.results()[0] >= 1 for process in processes)


def never_return() -> None:
    time.sleep(1e6)


def fail_alone(rank: int, count: int, folder: Path) -> None:
    """The command in two processes; the second fails by itself, and ending the group waits for the first."""
    sys.stderr = (folder / f"errors_{rank}").open("w")
    dist.destroy_process_group = dist.distributed_c10d._abort_process_group = never_return  # type: ignore[assignment]
    ending._ABORT_SECONDS = 0.5
    os.environ |= {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_LOCALID": "0"}

    def command(*_: Any, **__: Any) -> None:
        with process_group(Processes(rank, count, 0, 1), CPU, LONG, ends_itself=True):
            progress.begin_step(3)
            gather_stacked(torch.ones(2))
            wait_until_heard()
            if rank == 1:
                raise ValueError("a shape is odd")
            hang()

    cli.command.main = command  # type: ignore[assignment, method-assign]
    cli.main([])


def test_an_error_of_one_process_is_said_at_once_by_all_though_ending_the_group_would_block(tmp_path):
    with started(2, fail_alone, tmp_path) as processes:
        for process in processes:
            process.processes[0].join(60)
        assert [process.processes[0].exitcode for process in processes] == [2, 1]
    error = "ValueError: a shape is odd"
    other, own = ((tmp_path / f"errors_{rank}").read_text().splitlines() for rank in range(2))
    assert other == [
        f"simclr-dist: process 1 on node1 has ended: {error}; start again to resume from the last checkpoint"
    ]
    assert own[0].startswith(f"simclr-dist (process 1): {error}; unexpected error")


def stand_then_die(rank: int, count: int, folder: Path) -> None:
    """Neither begins a collective for longer than a silent process is borne; then the second is gone."""
    sys.stderr = (folder / f"errors_{rank}").open("w")
    with process_group(Processes(rank, count, 0, 1), CPU, LONG, ends_itself=True):
        gather_stacked(torch.ones(2), label="rows of the loss")
        if rank == 1:
            time.sleep(2.5 * guard._SILENT_SECONDS)
            (folder / "slow work is done").touch()
            die(signal.SIGKILL)
        hang()


def test_a_process_that_dies_is_named_long_before_the_timeout_and_one_that_works_for_long_is_not(tmp_path):
    with started(2, stand_then_die, tmp_path) as processes:
        processes[0].processes[0].join(60)
        assert processes[0].processes[0].exitcode == 2
    line = (tmp_path / "errors_0").read_text()
    assert line.startswith("simclr-dist: process 1 on node1 gave no sign of life for 3 s: it is stopped, or its node")
    assert "it was last heard of its last collective 'rows of the loss'" in line
    assert (tmp_path / "slow work is done").exists()


def hang_in_a_subgroup(rank: int, count: int) -> str:
    """Batch norm over pairs of processes; the last process hangs before its pair's collective."""
    try:
        with process_group(Processes(rank, count, 0, 1), CPU, 2):
            pair = divide_batch_norm(16, 32, count).process_group
            gather_stacked(torch.ones(2), pair, label="batch norm (forward pass)")
            if rank == 3:
                hang()
            gather_stacked(torch.ones(2), pair, label="batch norm (forward pass)")
            gather_stacked(torch.ones(2), label="rows of the loss")
    except UserError as error:
        return str(error)
    return "went on"


def test_a_process_that_hangs_in_a_batch_norm_group_is_named_after_the_runs_timeout_not_the_backends():
    with started(4, hang_in_a_subgroup) as processes:
        for process in processes[:3]:
            process.processes[0].join(60)
            assert not process.processes[0].is_alive()
        lines = [process.results()[0] for process in processes[:3]]
    assert len(set(lines)) == 1
    assert lines[0].startswith("process 3 on node3 has not answered for 2 s (machine.collective_timeout_seconds)")


def guarded(*, stopped: bool = False, raises: bool = False, **found: Any) -> _Guard:
    """A guard over what a process has found: ``silent`` seconds of the next one, what was ``heard``, and so on."""
    state = {"heard": None, "silent": 0.0, "gone": False, "lost": {}, "itself": False, "launcher": True} | found
    lost: Any = SimpleNamespace(
        heard=state["heard"], next_silent_seconds=state["silent"], holder_is_gone=state["gone"], timeout_seconds=LONG,
        holder_lost=lambda: "process 0 has ended", rank=1, host="node1", looked_itself=state["itself"],
        held_by_first=not state["launcher"],
        find=lambda question, silent_seconds=0.0: state["lost"].get(question),
    )  # fmt: skip
    return _Guard(lost, CPU, lambda: stopped, raises=raises)


SILENT = {"silent": 31.0, "lost": {is_silent: "silent"}}
BRIEFLY = {"silent": 11.0, "lost": {is_silent: "silent"}}


@pytest.mark.parametrize(
    ("found", "stood", "line"),
    [
        ({"heard": "process 2 has ended"}, 4, "process 2 has ended"),
        ({"heard": "process 2 has ended"}, 2, None),
        (SILENT, 31, "silent"),
        (SILENT, 29, None),
        (BRIEFLY, 31, None),
        (BRIEFLY | {"stopped": True}, 11, "silent"),
        ({"silent": 31.0}, 31, None),  # it was heard again while it was looked at
        ({"gone": True}, 31, "process 0 has ended"),
        ({"lost": {is_lost: "behind"}}, 599, None),
        ({"lost": {is_lost: "behind"}}, 601, "behind"),
        ({}, 601, None),
        (SILENT | {"raises": True}, 31, "silent"),
        ({"raises": True, "lost": {is_lost: "behind"}}, 601, None),
        ({"raises": True, "gone": True}, 31, None),  # a launcher's: the group may be whole
        ({"raises": True, "gone": True, "launcher": False}, 31, "process 0 has ended"),
    ],
)
def test_the_guard_bears_slow_work_for_the_timeout_and_silence_for_half_a_minute_or_ten_seconds_at_a_stop(
    found, stood, line
):
    assert guarded(**found)._line(stood) == line


@pytest.mark.parametrize(("itself", "again_after"), [(True, LONG), (False, LONG / 4)])
def test_one_that_has_looked_and_found_nobody_lets_another_look_who_may_see_that_it_is_the_one(itself, again_after):
    looking = guarded(itself=itself)
    assert looking._line(LONG + 1) is None
    assert looking.look_after == LONG + 1 + again_after


@pytest.mark.parametrize(("idle", "said"), [(True, True), (False, False)])
def test_when_all_are_equally_far_only_a_gpu_that_does_nothing_ends_the_run(monkeypatch, idle, said):
    monkeypatch.setattr(guard, "stands", lambda device, seconds: idle)
    line = guarded()._line(LONG + 61)
    assert (line is not None and "its GPU does nothing" in line) == said


def test_silence_is_counted_in_beats_of_ones_own_so_that_nobody_is_silent_after_all_were_stopped():
    heartbeats: list[Heartbeat | None] = [None, beat(1), beat(1), beat(1), beat(2), beat(2), beat(2, LEFT)]
    lost = LostProcesses.__new__(LostProcesses)
    lost.rank, lost.count, lost.beat_seconds = 2, 3, 0.25
    lost._beat_of_next, lost._silent_beats = None, 0
    asked: list[int] = []
    lost.store = SimpleNamespace(read=lambda rank: (asked.append(rank), heartbeats.pop(0))[1])  # type: ignore[assignment]
    silent = []
    while heartbeats:
        lost._watch()
        silent.append(lost.next_silent_seconds)
    assert silent == [0, 0, 0.25, 0.5, 0, 0.25, 0]
    assert set(asked) == {0}  # after the last comes the first


def beat(number: int, state: str = WORKS) -> Heartbeat:
    return Heartbeat(number, "node0", Progress(), state)


def test_torchruns_setting_of_nccls_watchdog_is_replaced_and_a_users_is_kept(monkeypatch):
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    for before, torchrun, after in (("1", True, "0"), ("1", False, "1"), ("3", True, "3"), (None, False, "0")):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
        if before:
            monkeypatch.setenv(name, before)
        if torchrun:
            monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
        _leave_judgement_to_guard()
        assert os.environ[name] == after


def test_where_the_others_go_on_a_main_thread_that_waits_in_vain_is_freed_and_the_line_published(monkeypatch):
    monkeypatch.setattr("simclr_dist.distributed.watchdog.guard._HEARD_SECONDS", 0.0)
    monkeypatch.setattr("simclr_dist.distributed.watchdog.guard.end_now", lambda status: pytest.fail("it was ended"))
    done: list[str] = []
    guard = guarded(heard="process 2 has ended")
    vars(guard.lost).update(wait_for_end=lambda: False, is_ending=False, publish=lambda line: done.append(line))
    guard.instead = lambda: done.append("freed")
    guard.run()
    assert done == ["process 2 has ended", "freed"]
