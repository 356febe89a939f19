"""Saves in the background: what the step waits for, what a full disk costs, and when a run gives up."""

import errno
import os
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from simclr_dist.run import folder as run_folder
from simclr_dist.run.lock import RunLock
from simclr_dist.run.metrics_log import MetricsLog, read_metrics
from simclr_dist.run.newest import Newest, load_newest
from simclr_dist.run.state_copy import StateCopy
from simclr_dist.run.writer import Saver
from simclr_dist.storage import appended_file
from tests.support.processes import assert_bit_equal, final_state, losses, pretrain_here, run_distributed, tiny_config


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def writes_that_fail(*steps: int):
    """What takes the place of checkpoint.write: the saves of these steps fail, once for each time they are given."""
    write, left = checkpoint.write, list(steps)

    def write_or_fail(folder, state, step, *others):
        if step in left:
            left.remove(step)
            full()
        return write(folder, state, step, *others)

    return write_or_fail


def test_the_step_waits_for_a_copy_only_and_what_is_written_is_the_state_of_that_moment(tmp_path):
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    may_continue = threading.Event()
    saver = Saver(tmp_path, 3, None, lambda: may_continue.wait(60))

    def step() -> dict:
        module(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return {"model": module.state_dict(), "optimizer": optimizer.state_dict()}

    state = step()
    expected = StateCopy().of(state)
    saver.begin(state, 1)
    step()  # the disk is not done with the first one yet
    assert load_newest(tmp_path) == Newest()
    may_continue.set()
    saver.wait()
    loaded = checkpoint.load(checkpoint.path_of(tmp_path, 1))
    assert_bit_equal({key: loaded[key] for key in expected}, expected)
    assert not torch.equal(loaded["model"]["weight"], module.weight)
    assert loaded["model"]._metadata == module.state_dict()._metadata


def test_a_save_that_comes_while_one_is_under_way_waits_for_it_and_says_so_once(tmp_path, logged):
    steps, order = iter((1, 2, 3)), []
    busy = threading.Event()

    def name() -> None:
        busy.wait(0.05)
        order.append(next(steps))

    saver = Saver(tmp_path, 1, None, name)
    for step in (1, 2, 3):
        saver.begin({"model": {"w": torch.full((3,), step)}}, step)
        assert order == list(range(1, step))
    saver.wait()
    assert [path.name for path in tmp_path.glob("*step*")] == ["step_000000003.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["model"]["w"].tolist() == [3, 3, 3]
    assert len([line for line in logged if "takes longer" in line]) == 1


def test_before_a_checkpoint_gets_its_name_the_metrics_are_on_the_disk_and_then_the_lock_is_checked(
    tmp_path, monkeypatch
):
    calls, folder = [], tmp_path / "run" / "checkpoints"

    def noting(owner: type, name: str) -> None:
        call = getattr(owner, name)

        def noted(self) -> None:
            calls.append((owner, len(list(folder.glob("step_*.pt")))))
            call(self)

        monkeypatch.setattr(owner, name, noted)

    noting(MetricsLog, "sync")
    noting(RunLock, "check")
    pretrain_here(tiny_config(tmp_path, "machine.save_every_steps=2", "machine.stop_after_steps=4"))
    assert calls == [(owner, saved) for saved in (0, 1) for owner in (MetricsLog, RunLock)]


def test_a_state_copy_uses_its_memory_again_and_follows_a_state_that_grows():
    copies, tensor = StateCopy(), torch.arange(4.0)
    first = copies.of({"a": [tensor]})["a"][0]
    tensor += 1
    second = copies.of({"a": [tensor], "b": tensor.half()})
    assert second["a"][0] is first
    assert first.tolist() == [1, 2, 3, 4]
    assert second["b"].dtype == torch.float16
    assert copies.of({"a": [tensor[:2]]})["a"][0].tolist() == [1, 2]


def test_a_run_continues_over_failed_saves_and_tries_the_last_one_again(tmp_path, monkeypatch, logged):
    monkeypatch.setattr(checkpoint, "write", writes_that_fail(2, 4, 9, 9))
    monkeypatch.setattr(run_folder, "_SECONDS_BETWEEN_ATTEMPTS", 0)
    config = tiny_config(tmp_path, "machine.save_every_steps=2", "machine.stop_after_steps=9")
    assert pretrain_here(config).steps_done == 9
    assert final_state(tmp_path / "run")["step"] == len(losses(tmp_path / "run")) == 9
    assert [line for line in logged if "cannot be written: No space left" in line and "make room" in line] == [
        line for line in logged if "the checkpoint of step" in line
    ]
    assert len([line for line in logged if "the checkpoint of step" in line]) == 4
    assert len([line for line in logged if "written again" in line]) == 2


def _failing_from_step_6(config) -> str:
    checkpoint.write = writes_that_fail(6, 8)
    with pytest.raises(UserError) as stopped:
        pretrain_here(config)
    return str(stopped.value)


def test_after_the_stated_number_of_failed_saves_all_processes_stop_and_the_run_resumes_from_the_last_good_one(
    tmp_path,
):
    settings = ("machine.save_every_steps=2", "machine.stop_after_failed_saves=2")
    complaints = run_distributed(2, _failing_from_step_6, tiny_config(tmp_path, *settings))
    assert complaints[0] == complaints[1]
    assert "2 saves to" in complaints[0]
    assert "No space left on device" in complaints[0]
    assert "the last good checkpoint is" in complaints[0]
    assert final_state(tmp_path / "run")["step"] == 4
    pretrain_here(tiny_config(tmp_path, *settings, "machine.stop_after_steps=10"))
    assert len(losses(tmp_path / "run")) == final_state(tmp_path / "run")["step"] == 10


def test_metrics_that_a_full_disk_refuses_wait_in_memory_and_are_written_whole_and_in_order(
    tmp_path, monkeypatch, logged
):
    write = os.write
    metrics = MetricsLog(tmp_path, steps_done=0)
    for step in range(1, 13):
        room = 10 if step in (4, 5, 6, 10) else None  # of these bytes some are taken, then none

        def written(descriptor: int, content: bytearray) -> int:
            nonlocal room
            if room == 0:
                full()
            taken = write(descriptor, bytes(content[:room]))
            room = None if room is None else 0
            return taken

        monkeypatch.setattr(appended_file.os, "write", written)
        metrics.write({"step": step, "epoch": 1, "loss": step / 4})
        if step == 6:
            assert [line["step"] for line in read_metrics(metrics.path)] == [1, 2, 3]
            with pytest.raises(OSError, match="No space left"):  # so that no checkpoint of step 6 gets its name
                metrics.sync()
    metrics.sync()
    metrics.close()
    assert losses(tmp_path) == [step / 4 for step in range(1, 13)]
    assert events(tmp_path / "tensorboard") == [(step, step / 4) for step in range(1, 13)]
    assert len([line for line in logged if "wait in memory" in line]) == 2
    resumed = MetricsLog(tmp_path, steps_done=5)
    resumed.write({"step": 6, "epoch": 1, "loss": 9.0})
    resumed.close()
    assert events(tmp_path / "tensorboard") == [*((step, step / 4) for step in range(1, 6)), (6, 9.0)]


def events(folder: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("loss")]


def test_metrics_that_are_too_many_to_wait_end_the_run_with_a_line(tmp_path, monkeypatch):
    metrics = MetricsLog(tmp_path, steps_done=0)
    monkeypatch.setattr(appended_file.os, "write", full)
    monkeypatch.setattr(appended_file, "WAITING_BYTES", 100)
    metrics.write({"step": 1, "epoch": 1, "loss": 1.0})
    with pytest.raises(UserError, match="No space left on device; make room"):
        metrics.write({"step": 2, "epoch": 1, "loss": 1.0, "a" * 100: 1.0})
    metrics.close()


def test_weights_that_are_not_finite_are_not_cured_by_room_on_the_disk(tmp_path):
    saver = Saver(tmp_path, 1, None)
    saver.begin({"model": {"w": torch.tensor([float("nan")])}}, 1)
    saver.wait()
    assert "not finite" in saver.reason
    assert saver.cure == "lower the learning rate, and start in another machine.run_dir"
