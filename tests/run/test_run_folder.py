"""What stands in a run's folder is not lost by starting there, and a signal costs no step more."""

import shutil
import signal
from pathlib import Path

import pytest
import torch

from simclr_dist.config import load_config, to_yaml
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.processes import Processes
from simclr_dist.errors import UserError
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.stop_signals import StopSignals
from simclr_dist.training.pretraining import pretrain
from simclr_dist.training.trainer import Trainer
from tests.support.processes import tiny_config


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.suffix in (".pt", ".jsonl")}


@pytest.mark.parametrize("removed", [["checkpoints"], ["checkpoints", "metrics.jsonl"]])
def test_a_folder_whose_checkpoints_were_removed_is_not_taken_over_by_another_recipe(tmp_path, removed):
    keys = ("machine.stop_after_steps=2", "machine.keep_every_steps=1")
    pretrain(tiny_config(tmp_path, *keys), Processes())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    if "metrics.jsonl" in removed:
        (tmp_path / "run" / "metrics.jsonl").unlink()
    before = bytes_of(tmp_path / "run")
    assert any("kept" in name for name in before)
    with pytest.raises(UserError, match=r"config.yaml is of another recipe: recipe.seed is 0 there and 2 here"):
        pretrain(tiny_config(tmp_path, *keys, "recipe.seed=2"), Processes())
    assert bytes_of(tmp_path / "run") == before
    pretrain(tiny_config(tmp_path, *keys), Processes())  # the same run is computed again
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 2


def test_a_users_config_in_the_folder_of_its_run_is_kept_under_another_name(tmp_path):
    config = tiny_config(tmp_path, "machine.stop_after_steps=1")
    given = tmp_path / "run" / "config.yaml"
    given.parent.mkdir()
    text = f"# what I want to know\nmachine:\n  run_dir: {tmp_path / 'run'}\n"
    given.write_text(text)
    for _ in range(2):
        pretrain(config, Processes())
        assert given.with_name("config_given.yaml").read_text() == text
        assert to_yaml(load_config(str(given))) == given.read_text() != text


def test_the_config_of_a_start_that_computed_nothing_is_nobodys(tmp_path):
    config = tiny_config(tmp_path, "machine.stop_after_steps=1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(config))
    pretrain(config, Processes())
    assert not (tmp_path / "run" / "config_given.yaml").exists()


@pytest.mark.parametrize(("at", "ends_after"), [(0, 1), (1, 2), (2, 3)])
def test_a_signal_stops_the_run_after_the_step_in_which_it_comes(tmp_path, monkeypatch, at, ends_after):
    trainer = Trainer(tiny_config(tmp_path), Processes(), torch.device("cpu"))
    stop, step = StopSignals(), trainer.train_step

    def signalled(batch: Batch) -> dict[str, float]:
        if trainer.steps_done == at:
            stop.received = signal.SIGTERM
        return step(batch)

    monkeypatch.setattr(trainer, "train_step", signalled)
    outcome = trainer.train(stop)
    assert (outcome.steps_done, outcome.signal) == (ends_after, signal.SIGTERM)
    assert [file.stem for file in (tmp_path / "run" / "checkpoints").glob("step_*")] == [f"step_{ends_after:09d}"]
