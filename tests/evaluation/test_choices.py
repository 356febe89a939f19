"""What ``evaluate`` is asked for, before anything is opened."""

from dataclasses import replace

import pytest

from simclr_dist.config.recipe import Data
from simclr_dist.evaluation.choices import chosen_data

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
