"""Folders and files below a home folder."""

import os
import pwd

import pytest

from simclr_dist.config import load_config
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.data.sources.shards.settings import cache_folder
from simclr_dist.errors import UserError
from simclr_dist.weights.initial import read_initial


def test_a_run_folder_below_the_home_folder_is_named_by_its_real_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config("digits_demo", ["machine.run_dir=~/r"]).machine.run_dir == f"{tmp_path}/r"


def no_home(_: int) -> None:
    raise KeyError("uid not found")


@pytest.mark.parametrize("home", ["~nosuchuser", "~"])
@pytest.mark.parametrize(
    ("key", "use"),
    [
        ("machine.run_dir", lambda config: None),
        ("recipe.data.path", open_for_pretraining),
        ("recipe.initial.weights", lambda config: read_initial(config.recipe)),
        ("machine.shards.cache_folder", lambda config: cache_folder(config.machine.shards)),
    ],
)
def test_a_home_folder_that_is_nobodys_is_refused_by_its_key(monkeypatch, home, key, use):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_home)
    monkeypatch.chdir(os.sep)
    with pytest.raises(UserError, match=rf"{key}: '{home}/x': {home} is nobody's home folder here"):
        use(load_config("digits_demo", ["recipe.data.source=folder", "recipe.data.path=/", f"{key}={home}/x"]))
