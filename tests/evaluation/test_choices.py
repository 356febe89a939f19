"""What ``evaluate`` is asked for, before anything is opened."""

from dataclasses import replace

import pytest

from simclr_dist.config.recipe import Data
from simclr_dist.evaluation.choices import METHODS, chosen_data, refuse_foreign

OWN = Data(source="folder", path="/data/$own #1", image_size=32)


@pytest.mark.parametrize(
    "name",
    [
        "photos #2",
        "2026_11_26",
        "001",
        "null",
        "[1]",
        "a: b",
        "a=b",
        "12:30",
        "'q'",
        "$HOME",
        "${recipe.seed}",
        "x\\",
        " ",
    ],
)
def test_the_folder_to_evaluate_on_is_the_one_that_was_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / "photos").mkdir(exist_ok=True)
    assert chosen_data(OWN, name, []) == replace(OWN, path=name)
    assert chosen_data(OWN, name, ["recipe.data.image_size=64"]) == replace(OWN, path=name, image_size=64)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_a_checkpoint_of_the_run_and_other_images(method):
    refuse_foreign(method, ["checkpoint", "on"], "auto")
