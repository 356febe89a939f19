"""``simclr-dist extend``: a longer run that begins where another one stands."""

import shutil
from pathlib import Path

import pytest

from simclr_dist.config import load_config
from simclr_dist.data.loading.order import build_order
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import UserError
from simclr_dist.optim.schedule import build_schedule
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.starting.extension import extended
from simclr_dist.training import pretraining
from tests.support.commands import NO_UTF8, complaint, run_command
from tests.support.processes import tiny_config

IMAGES = 1438  # the digits that pretraining sees
STEPS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of two epochs that stands after three steps."""
    folder = tmp_path_factory.mktemp("extended")
    config = tiny_config(folder, f"machine.stop_after_steps={STEPS}", "machine.save_every_steps=7")
    pretraining.pretrain(config, Processes())
    return folder / "run"


@pytest.mark.parametrize("optimizer", ["kept", "fresh"])
def test_the_longer_run_begins_after_the_last_step_with_the_rate_of_its_own_schedule(run, tmp_path, capsys, optimizer):
    new = tmp_path / "longer"
    status, told, _ = run_command(capsys, "extend", run, "--epochs", 8, "--run-dir", new, "--optimizer", optimizer)
    assert status == 0
    assert "another trajectory" in told
    assert f"optimizer state: {optimizer}" in told
    assert f"simclr-dist pretrain {new}.yaml" in told
    config = load_config(f"{new}.yaml", [f"machine.stop_after_steps={STEPS + 2}"])
    assert config.machine.save_every_steps == 7
    pretraining.pretrain(config, Processes())
    lines = read_metrics(new / "metrics.jsonl")
    assert [line["step"] for line in lines] == [STEPS + 1, STEPS + 2]
    schedule = build_schedule(config.recipe, build_order(config.recipe, IMAGES))
    assert schedule.total_steps == 8 * (IMAGES // 32)
    assert [line["learning_rate"] for line in lines] == [schedule(STEPS), schedule(STEPS + 1)]


def test_the_config_has_no_bands_and_no_stop_of_the_run_before(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    file, bands = copy / "config.yaml", "health: {contrastive_top1: {bands: {50: [0, 9]}, source: x}}"
    file.write_text(file.read_text().replace("health: {}", bands))
    assert load_config(str(file)).health
    assert run_command(capsys, "extend", copy, "--epochs", 8)[0] == 0
    config = load_config(str(tmp_path / "copy_8_epochs.yaml"))
    assert (config.health, config.machine.stop_after_steps) == ({}, 0)
    assert config.machine.run_dir == str(tmp_path / "copy_8_epochs")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{run}", "--epochs", "2"], "is of a run of 2 epochs, and 2 are no more"),
        (["{run}", "--epochs", "3", "--run-dir", "{run}"], "holds a run already"),
        (["{run}/config.yaml", "--epochs", "3"], "is no run folder and no checkpoint of one"),
        (["{run}/tensorboard", "--epochs", "3"], "give the run_dir of a pretraining run"),
    ],
)
def test_what_cannot_be_extended_is_one_line(run, capsys, arguments, line):
    status, _, told = run_command(capsys, "extend", *(each.format(run=run) for each in arguments))
    assert status == 2
    assert line in complaint(told)


def test_a_checkpoint_that_stands_in_no_run_folder_needs_a_name_for_the_new_one(run, tmp_path, monkeypatch):
    checkpoint = next((run / "checkpoints").glob("step_*.pt"))
    monkeypatch.setattr(Path, "absolute", lambda path: Path("/tmp") / path.name)  # as a copy there: its folder's is /
    with pytest.raises(UserError, match=r"--run-dir: .*step_.* stands in no run folder.*give a folder"):
        extended(checkpoint, 8)
    assert extended(checkpoint, 8, tmp_path / "longer").config.machine.run_dir == str(tmp_path / "longer")


def test_a_config_that_is_there_is_not_overwritten(run, tmp_path, capsys):
    (tmp_path / "longer.yaml").write_text("mine\n")
    status, _, told = run_command(capsys, "extend", run, "--epochs", 8, "--run-dir", tmp_path / "longer")
    assert (status, (tmp_path / "longer.yaml").read_text()) == (2, "mine\n")
    assert "is there already" in complaint(told)


def test_more_epochs_in_the_folder_of_a_run_are_refused_with_the_command_that_extends_it(run):
    with pytest.raises(UserError) as refused:
        pretraining.pretrain(tiny_config(run.parent, "recipe.epochs=9"), Processes())
    assert f"simclr-dist extend {run} --epochs 9;" in str(refused.value)
    with pytest.raises(UserError, match="another recipe") as refused:
        pretraining.pretrain(tiny_config(run.parent, "recipe.epochs=9", "recipe.seed=1"), Processes())
    assert "simclr-dist extend" not in str(refused.value)


def test_a_run_whose_folder_is_no_utf8_is_extended(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / NO_UTF8)
    assert run_command(capsys, "extend", copy, "--epochs", 8)[0] == 0
    config = load_config(f"{copy}_8_epochs.yaml")
    assert config.machine.run_dir == f"{copy}_8_epochs"
    assert Path(config.recipe.initial.weights).is_file()
