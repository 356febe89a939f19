"""``simclr-dist track``: what it refuses, before any library is loaded."""

import pytest

from simclr_dist.run import trackers
from simclr_dist.tracking.state import State, sending_alone
from tests.support.commands import NO_UTF8, complaint, run_command
from tests.support.tracking import write_run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "names no tracker; add wandb.project=NAME"),
        (["wandb.projekt=x"], "unknown key 'machine.tracking.wandb.projekt' (did you mean 'project'?)"),
        (["recipe.epochs=3"], "write wandb.project=NAME"),
        (["wandb.project=x", "wandb.mode=offlin"], "(did you mean 'offline'?)"),
    ],
)
def test_what_it_cannot_send_is_one_line_and_leaves_nothing(tmp_path, capsys, words, said):
    run_dir = write_run(tmp_path, steps=2)
    status, _, told = run_command(capsys, "track", run_dir, *words)
    assert status == 2
    assert said in complaint(told)
    assert not (run_dir / "tracking").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    status, _, told = run_command(capsys, "track", tmp_path, "wandb.project=x")
    assert (status, "has no metrics.jsonl" in complaint(told)) == (2, True)


def test_a_run_is_sent_to_a_tracker_by_one_process_at_a_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trackers, "refuse_missing", lambda tracking: None)
    run_dir = write_run(tmp_path, steps=2)
    with sending_alone(run_dir, "wandb"):
        status, _, told = run_command(capsys, "track", run_dir, "wandb.project=x")
    assert (status, "another process sends it to wandb now" in complaint(told)) == (2, True)
    assert State(run_dir, "wandb").chosen() == {"project": "x"}


def test_as_new_is_refused_while_a_training_sends_the_run_and_forgets_nothing_of_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trackers, "refuse_missing", lambda tracking: None)
    run_dir, entry = write_run(tmp_path, steps=2, wandb={"project": "x"}), {"id": "0badcafe"}
    with sending_alone(run_dir, "wandb"):
        State(run_dir, "wandb").write("/x", entry)
        assert run_command(capsys, "track", run_dir, "--as-new")[0] == 2
    assert State(run_dir, "wandb").read("/x") == entry


def test_ids_that_cannot_be_read_are_no_reason_to_make_a_second_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trackers, "refuse_missing", lambda tracking: None)
    run_dir = write_run(tmp_path, steps=2, wandb={"project": "x"})
    (run_dir / "tracking").mkdir()
    (run_dir / "tracking" / "wandb.json").write_text("[]")
    status, _, told = run_command(capsys, "track", run_dir)
    assert (status, "remove it to send the run as a new one" in complaint(told)) == (2, True)


@pytest.mark.parametrize("words", ["wandb.project=x", "mlflow.experiment=x"])
def test_a_run_whose_folder_is_no_utf8_is_refused_before_a_library_meets_its_name(tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr(trackers, "refuse_missing", lambda tracking: None)
    (tmp_path / NO_UTF8).mkdir()
    status, _, told = run_command(capsys, "track", write_run(tmp_path / NO_UTF8, steps=2), words)
    assert (status, "not all of this path is UTF-8" in complaint(told)) == (2, True)
