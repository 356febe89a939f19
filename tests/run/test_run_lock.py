"""One run, one writer: a second start refuses, a dead holder is replaced, and who lost the lock writes nothing more."""

import contextlib
import dataclasses
import errno
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from simclr_dist.config import Config
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import UserError
from simclr_dist.run import checkpoint
from simclr_dist.run.lock import RunLock
from simclr_dist.run.lock_files import LockFiles
from simclr_dist.run.lock_owner import Owner
from simclr_dist.training import pretraining, trainer
from tests.support.processes import (
    Running,
    final_state,
    losses,
    pretrain_here,
    run_distributed,
    tiny_config,
    wait_for_step,
)

HERE = Owner.here()
ELSEWHERE = dataclasses.replace(HERE, token="1", host="elsewhere")


def lock(folder: Path, owner: Owner | None = None, **times: float) -> RunLock:
    """The lock as a process on this host would make it, or as ``owner`` would."""
    return RunLock(folder, owner=owner, **{"beat_seconds": 1000.0, "silent_seconds": 0.1, **times})


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_start_refuses_and_goes_on_at_once_when_the_first_was_killed(tmp_path):
    config = tiny_config(tmp_path, "machine.save_every_steps=1", "recipe.epochs=1000")
    running = Running(1, pretrain_here, config)
    try:
        wait_for_step(tmp_path / "run", 3, running)  # the save of step 2 has waited until that of step 1 was there
        holder = f"process {running.processes[0].pid}"
        with pytest.raises(UserError, match=f"run is in use by {holder} on host .*; last sign of life"):
            pretraining.pretrain(config, Processes())
        running.kill()
        assert list((tmp_path / "run").glob("lock_*"))
        saved = final_state(tmp_path / "run")["step"]
        goes_on = tiny_config(tmp_path, "recipe.epochs=1000", f"machine.stop_after_steps={saved + 1}")
        assert pretraining.pretrain(goes_on, Processes()).steps_done == saved + 1
    finally:
        running.kill()
    assert len(losses(tmp_path / "run")) == saved + 1
    assert not list((tmp_path / "run").glob("*lock*"))


def test_a_killed_process_that_nobody_has_waited_for_holds_no_lock():
    process = subprocess.Popen(["sleep", "1000"])
    owner = dataclasses.replace(HERE, pid=process.pid, started=None)
    assert not owner.is_dead()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_dead()
    process.wait()
    assert owner.is_dead()


def test_another_process_with_the_id_of_the_holder_does_not_hold_the_lock(tmp_path):
    with lock(tmp_path, dataclasses.replace(HERE, token="1", started=1)) as earlier, lock(tmp_path) as later:
        earlier.take()
        later.take()
        with pytest.raises(UserError, match="has taken this run over"):
            earlier.check()
        later.check()


def test_a_copy_of_a_folder_in_use_is_free_at_once_and_the_folder_itself_is_not_under_another_name(tmp_path):
    run, copy = tmp_path / "run", tmp_path / "copy"
    run.mkdir()
    with lock(run) as holder:
        holder.take()
        shutil.copytree(run, copy)
        with lock(copy, silent_seconds=60) as other:
            started = time.monotonic()
            other.take()
            assert time.monotonic() - started < 30
            other.check()
        run.rename(tmp_path / "moved")
        (tmp_path / "link").symlink_to("moved")
        for name in ("moved", "link"):
            with pytest.raises(UserError, match=f"{name} is in use by process {os.getpid()}"):
                lock(tmp_path / name).take()
        (tmp_path / "moved").rename(run)
        holder.check()


@pytest.mark.parametrize("lives", [True, False])
def test_what_is_a_copy_on_another_device_or_the_folder_itself_mounted_twice_is_watched(tmp_path, monkeypatch, lives):
    with lock(tmp_path, beat_seconds=0.01 if lives else 1000) as holder:
        holder.take()
        device, inode = LockFiles(tmp_path, HERE).place()
        monkeypatch.setattr(LockFiles, "place", lambda _: (device + 1, inode))
        with lock(tmp_path, silent_seconds=2 if lives else 0.1) as other:
            if lives:
                with pytest.raises(UserError, match="in use by process"):
                    other.take()
            else:
                other.take()


def test_a_holder_on_another_host_that_gives_signs_of_life_is_left_alone(tmp_path):
    with lock(tmp_path, ELSEWHERE, beat_seconds=0.01) as holder:
        holder.take()
        with pytest.raises(UserError, match=r"in use by process .* on host elsewhere"):
            lock(tmp_path, silent_seconds=2).take()
        holder.check()
    assert files(tmp_path) == []


def test_a_silent_holder_on_another_host_is_watched_then_replaced_and_finds_out(tmp_path):
    with lock(tmp_path, ELSEWHERE) as holder:
        holder.take()
        with lock(tmp_path) as second:
            started = time.monotonic()
            second.take()
            assert time.monotonic() - started >= second.silent_seconds
            with pytest.raises(UserError, match=f"process {os.getpid()} on host .* has taken this run over"):
                holder.check()
            second.check()
            holder.__exit__()  # gives up nothing that is not its own
            second.check()
    assert files(tmp_path) == []


def test_the_heartbeat_finds_the_loss_and_never_brings_the_file_back(tmp_path):
    with lock(tmp_path, beat_seconds=0.01) as holder:
        holder.take()
        assert not holder.is_lost
        (tmp_path / "lock_000001.json").unlink()
        holder._thread.join(timeout=60)
        assert holder.is_lost
        assert files(tmp_path) == []


def test_a_job_that_slurm_started_again_takes_over_at_once_and_what_is_left_of_it_may_not(tmp_path):
    first = dataclasses.replace(ELSEWHERE, job="7")
    again = dataclasses.replace(HERE, token="2", job="7", restarts=1)
    with lock(tmp_path, first, beat_seconds=0.01) as orphan, lock(tmp_path, again, silent_seconds=1000) as requeued:
        orphan.take()
        requeued.take()
        with pytest.raises(UserError, match=r"SLURM job 7, started again 1 times\) since .* has taken this run over"):
            orphan.check()
        with pytest.raises(UserError, match="SLURM has started this job again"):
            lock(tmp_path, dataclasses.replace(first, token="3")).take()
        requeued.check()


@pytest.mark.parametrize("ended", [True, False])
def test_a_job_that_slurm_knows_to_have_ended_is_replaced_at_once_and_no_other(tmp_path, ended):
    with lock(tmp_path, dataclasses.replace(ELSEWHERE, job="7"), beat_seconds=0.01) as holder:
        holder.take()
        asked = []
        second = RunLock(tmp_path, lambda job: asked.append(job) or ended, silent_seconds=2)
        with second, contextlib.nullcontext() if ended else pytest.raises(UserError, match="is in use"):
            second.take()
        assert asked == ["7"]


@pytest.mark.parametrize("links", [True, False])
def test_of_many_processes_that_find_a_dead_holder_one_takes_over(tmp_path, monkeypatch, links):
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    dead = lock(tmp_path, dataclasses.replace(HERE, token="dead", started=1))
    dead.take()
    judged = dead._files.newest()
    contenders = [lock(tmp_path) for _ in range(8)]
    together = threading.Barrier(len(contenders))
    made: list[Path | None] = []

    def contend(contender: RunLock) -> None:
        together.wait()
        made.append(contender._files.make_next(judged))

    threads = [threading.Thread(target=contend, args=(each,)) for each in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.name for file in made if file] == files(tmp_path) == ["lock_000002.json"]
    dead.__exit__()


def test_who_judged_an_earlier_holder_does_not_disturb_one_that_came_after_it_had_ended(tmp_path):
    first = lock(tmp_path)
    first.take()
    judged = first._files.newest()
    first.__exit__()
    with lock(tmp_path) as present:
        present.take()
        assert lock(tmp_path)._files.make_next(judged) is None
        present.check()


def test_a_run_that_lost_its_folder_while_it_wrote_a_checkpoint_does_not_put_it_in_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    serialise, found = checkpoint.write_with_checksum, []
    requeued = lock(tmp_path / "run", dataclasses.replace(Owner.here(), restarts=1))

    def slow(file, state: dict) -> None:
        if state["step"] == 3:
            requeued.take()
            found.extend(path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
        serialise(file, state)

    monkeypatch.setattr(checkpoint, "write_with_checksum", slow)
    with requeued:
        with pytest.raises(UserError, match="has taken this run over"):
            pretraining.pretrain(tiny_config(tmp_path, "machine.save_every_steps=1"), Processes())
        assert {path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")} == set(found)
        assert final_state(tmp_path / "run")["step"] == 2
        assert not list((tmp_path / "run").rglob("*.tmp"))
        requeued.check()


def _lost_at_step_2(config: Config) -> str:
    step = trainer.Trainer.train_step

    def lose(self: trainer.Trainer, images):
        self.folder.lock.is_lost = self.processes.is_first and self.steps_done == 1
        return step(self, images)

    trainer.Trainer.train_step = lose
    try:
        pretrain_here(config)
    except UserError as error:
        return str(error)
    finally:
        trainer.Trainer.train_step = step
    return "went on"


def test_all_processes_stop_together_without_saving_when_the_heartbeat_finds_the_loss(tmp_path):
    messages = run_distributed(2, _lost_at_step_2, tiny_config(tmp_path))
    assert all("it stops and writes nothing more" in message for message in messages)
    assert len(losses(tmp_path / "run")) == 2
    assert not (tmp_path / "run" / "checkpoints").exists()
