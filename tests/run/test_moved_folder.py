"""A run folder that was moved or copied, started by the config in it."""

from pathlib import Path

import pytest

from simclr_dist.run.moved_folder import refuse_moved
from tests.support.commands import complaint, run_command
from tests.support.configs import MINIMAL


def moved(folder: Path) -> Path:
    """The config of a run that was moved from ``a`` to ``b``."""
    checkpoints = folder / "b" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step_000000004.pt").touch()
    config = folder / "b" / "config.yaml"
    config.write_text(f"{MINIMAL}machine: {{run_dir: {folder / 'a'}}}\n")
    return config


@pytest.mark.parametrize("command", ["pretrain", "submit"])
def test_the_config_of_a_moved_run_does_not_begin_it_anew_where_it_was(tmp_path, capsys, command):
    status, _, told = run_command(capsys, command, moved(tmp_path))
    assert status == 2
    assert (
        f"set machine.run_dir={tmp_path / 'b'} to resume those, or machine.run_dir={tmp_path / 'a'} to train there"
        in (complaint(told))
    )
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("run_dir", "overrides"),
    [("{folder}/b", []), ("{folder}/link", []), ("b", []), ("{folder}/a", ["machine.run_dir={folder}/a"])],
)
def test_its_new_name_is_taken_however_it_is_written_and_any_that_is_given(tmp_path, monkeypatch, run_dir, overrides):
    monkeypatch.chdir(tmp_path)
    config = moved(tmp_path)
    (tmp_path / "link").symlink_to("b")
    refuse_moved(str(config), overrides, run_dir.format(folder=tmp_path))
    refuse_moved("b/config.yaml", overrides, run_dir.format(folder=tmp_path))
