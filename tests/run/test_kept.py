"""Checkpoints that stay: milestones and the best, whatever removes old ones."""

import errno
import json
import os
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest

from simclr_dist.config import load_config
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import UserError
from simclr_dist.evaluation.online import OnlineEvaluation
from simclr_dist.run import checkpoint
from simclr_dist.run.kept import NONE, Kept, named_checkpoint
from simclr_dist.run.writer import Saver
from simclr_dist.storage.temporary import temporary_name
from simclr_dist.training import pretraining
from tests.support.checkpoints import state
from tests.support.commands import run_command
from tests.support.configs import MINIMAL
from tests.support.processes import tiny_config

KNN = "online_knn_top1"


def save(kept: Kept, run: Path, step: int) -> None:
    checkpoint.write(run / "checkpoints", state(step), step, 1, before_removing=kept.keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt"))


def test_milestones_stay_when_the_newest_n_are_all_that_is_kept(tmp_path):
    kept = Kept(tmp_path, 4, NONE)
    for step in range(2, 11, 2):
        save(kept, tmp_path, step)
    assert names(tmp_path / "checkpoints") == ["last.pt", "step_000000010.pt"]
    assert names(tmp_path / "kept") == ["step_000000004.pt", "step_000000008.pt"]
    assert checkpoint.load(tmp_path / "kept" / "step_000000004.pt")["step"] == 4


def test_milestones_stay_when_the_key_is_taken_out(tmp_path):
    save(Kept(tmp_path, 2, NONE), tmp_path, 2)
    for step in (3, 4):
        save(Kept(tmp_path, 0, NONE), tmp_path, step)
    assert names(tmp_path / "kept") == ["step_000000002.pt"]


def test_a_milestone_takes_no_room_while_its_checkpoint_is_there(tmp_path):
    save(Kept(tmp_path, 2, NONE), tmp_path, 2)
    assert (tmp_path / "kept" / "step_000000002.pt").samefile(tmp_path / "checkpoints" / "step_000000002.pt")


def test_a_milestone_that_a_kill_left_out_is_kept_by_the_next_save_before_it_is_removed(tmp_path):
    checkpoint.write(tmp_path / "checkpoints", state(2), 2, 1)
    save(Kept(tmp_path, 2, NONE), tmp_path, 3)
    assert names(tmp_path / "kept") == ["step_000000002.pt"]


def test_a_milestone_of_another_run_in_the_folder_is_replaced(tmp_path):
    save(Kept(tmp_path, 2, NONE), tmp_path, 2)
    milestone = tmp_path / "kept" / "step_000000002.pt"
    before = milestone.read_bytes()
    (tmp_path / "checkpoints" / "step_000000002.pt").unlink()
    checkpoint.write(tmp_path / "checkpoints", state(7), 2, 1, before_removing=Kept(tmp_path, 2, NONE).keep)
    assert milestone.read_bytes() != before
    assert [path.name for path in milestone.parent.iterdir()] == [milestone.name]


def test_where_there_are_no_links_a_milestone_is_a_copy(tmp_path, monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    for step in (2, 3):
        save(Kept(tmp_path, 2, NONE), tmp_path, step)
    assert checkpoint.load(tmp_path / "kept" / "step_000000002.pt")["step"] == 2
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_what_a_kill_left_half_kept_is_removed_by_the_next_start(tmp_path):
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, check=True, text=True).stdout.strip()
    kept = tmp_path / "run" / "kept"
    kept.mkdir(parents=True)
    name = temporary_name(kept / "step_000000004.pt").name.replace(f"_{os.getpid()}_", f"_{ended}_")
    (kept / name).touch()
    pretraining.pretrain(tiny_config(tmp_path, "machine.stop_after_steps=1"), Processes())
    assert list(kept.iterdir()) == []


def _train(folder: Path, monkeypatch: pytest.MonkeyPatch, values: dict[int, float], until: int) -> None:
    """A run whose online evaluations after some steps have these values."""
    found = {step: {KNN: value} for step, value in values.items()}
    monkeypatch.setattr(OnlineEvaluation, "after_step", lambda self, step, encoder: found.get(step, {}))
    config = tiny_config(
        folder, "machine.evaluate_every_epochs=1", f"machine.keep_best={KNN}", f"machine.stop_after_steps={until}",
        "machine.keep_checkpoints=1", "machine.keep_every_steps=4", "machine.compare_every_steps=0",
    )  # fmt: skip
    pretraining.pretrain(config, Processes())


def test_the_best_is_known_while_its_checkpoint_is_still_being_written(tmp_path):
    kept = Kept(tmp_path, 0, KNN)
    assert [kept.is_better(step, {KNN: value}) for step, value in enumerate((0.5, 0.7, 0.6))] == [True, True, False]


def test_a_best_whose_save_failed_leaves_the_place_to_a_lesser_one(tmp_path, monkeypatch):
    """A retry of that very save, as at the end of a run, is the best all the same."""
    kept = Kept(tmp_path, 0, KNN)
    saver = Saver(tmp_path / "checkpoints", 1, None, before_removing=kept.keep, after_failure=kept.not_written)

    def saved(step: int, value: float | None = None) -> list[str]:
        if value is not None:
            assert kept.is_better(step, {KNN: value})
        saver.begin(state(step), step)
        saver.wait()
        return names(tmp_path / "kept")

    assert saved(1, 0.5) == [f"best_{KNN}_step_000000001.pt"]
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        assert saved(2, 0.9) == [f"best_{KNN}_step_000000001.pt"]
    assert not kept.is_better(3, {KNN: 0.4})
    assert saved(4, 0.7) == [f"best_{KNN}_step_000000004.pt"]
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", Mock(side_effect=OSError(errno.ENOSPC, "full")))
        saved(5, 0.8)
    assert saved(5) == [f"best_{KNN}_step_000000005.pt"]
    assert not kept.is_better(6, {KNN: 0.75})


@pytest.mark.parametrize("is_written", [True, False])
def test_the_best_that_a_kill_left_out_is_kept_by_whoever_goes_on(tmp_path, is_written):
    save(Kept(tmp_path, 0, NONE), tmp_path, 2)
    first = Kept(tmp_path, 0, KNN)
    assert first.is_better(1, {KNN: 0.5})
    save(first, tmp_path, 1)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps({"step": step, KNN: value}) + "\n"
                                                    for step, value in ((1, 0.5), (2, 0.9))))  # fmt: skip
    if not is_written:
        (tmp_path / "checkpoints" / "step_000000002.pt").unlink()
    then = Kept(tmp_path, 0, KNN)
    then.begin(2, tmp_path / "checkpoints")
    if not is_written:
        save(then, tmp_path, 2)
    assert names(tmp_path / "kept") == [f"best_{KNN}_step_000000002.pt"]
    assert not then.is_better(3, {KNN: 0.6})


def test_a_run_keeps_its_best_and_its_milestones_through_stops(tmp_path, monkeypatch, capsys):
    kept = tmp_path / "run" / "kept"
    _train(tmp_path, monkeypatch, {1: 0.5, 2: 0.7, 3: 0.6}, until=3)
    assert names(kept) == [f"best_{KNN}_step_000000002.pt"]
    _train(tmp_path, monkeypatch, {4: 0.7, 5: 0.65}, until=5)  # neither is better than the best of before
    assert names(kept) == [f"best_{KNN}_step_000000002.pt", "step_000000004.pt"]
    _train(tmp_path, monkeypatch, {6: 0.71}, until=7)
    assert names(kept) == [f"best_{KNN}_step_000000006.pt", "step_000000004.pt"]
    assert named_checkpoint(tmp_path / "run", "best") == kept / f"best_{KNN}_step_000000006.pt"
    status, told, _ = run_command(capsys, "evaluate", tmp_path / "run", "knn", "--checkpoint", "4")
    assert (status, "after 4 steps" in told) == (0, True)
    assert list((tmp_path / "run").glob("evaluation_step_000000004_knn_*.json"))


def test_a_checkpoint_is_named_by_its_step_or_its_file_and_else_those_there_are_said(tmp_path):
    kept = Kept(tmp_path, 2, NONE)
    for step in (2, 3):
        save(kept, tmp_path, step)
    milestone = tmp_path / "kept" / "step_000000002.pt"
    assert named_checkpoint(tmp_path, "2") == named_checkpoint(tmp_path, milestone.name) == milestone
    assert named_checkpoint(tmp_path, "3") == tmp_path / "checkpoints" / "step_000000003.pt"
    with pytest.raises(UserError, match="has no checkpoint '5'; there are those of the steps 2, 3"):
        named_checkpoint(tmp_path, "5")
    with pytest.raises(UserError, match=r"machine\.keep_best=online_knn_top1 keeps it"):
        named_checkpoint(tmp_path, "best")


def test_the_best_without_online_evaluations_is_refused(tmp_path):
    file = tmp_path / "minimal.yaml"
    file.write_text(MINIMAL)
    with pytest.raises(UserError, match=r"machine\.keep_best: online_knn_top1 is known at online evaluations alone"):
        load_config(str(file), [f"machine.keep_best={KNN}"])
