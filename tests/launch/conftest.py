"""A user's folder, and stand-ins for SLURM's commands."""

import os

import pytest

from simclr_dist.launch.slurm import scheduler


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the user is, with a config and no profiles."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    (tmp_path / "settings" / "simclr_dist").mkdir(parents=True)
    (tmp_path / "my.yaml").write_text("recipe: {data: {source: folder, path: photos}}\n")
    return tmp_path


@pytest.fixture
def slurm(folder, monkeypatch):
    """Makes stand-ins for SLURM's commands: each a shell script of the text that is given by its name."""

    def answers(**scripts: str) -> None:
        for name, text in scripts.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(scheduler, "RETRY_SECONDS", 0.01)
    return answers
