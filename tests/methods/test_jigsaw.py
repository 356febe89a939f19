"""Jigsaw: its table is that of facebookresearch/fair_self_supervision_benchmark, its answers belong to what is seen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from simclr_dist.config import Recipe, load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.errors import UserError
from simclr_dist.methods.jigsaw import Jigsaw
from simclr_dist.methods.permutations import far_permutations
from tests.support.golden import ToyParts, golden

RECORDS = golden("pretext")["jigsaw"]
BY = {"max_avg": "mean", "max_min": "minimum"}


def table_of(record: dict[str, Any]) -> np.ndarray:
    first = list(permutations(range(record["patches"]))).index(tuple(record["permutations"][0]))
    return far_permutations(record["patches"], record["count"], first, BY[record["method"]])


@pytest.mark.parametrize("record", [record for record in RECORDS if record["patches"] < 9])
def test_the_table_is_that_of_the_authors(record):
    table = table_of(record)
    assert table.tolist() == record["permutations"]
    distances = [(one != other).sum() for row, one in enumerate(table) for other in table[:row]]
    assert np.mean(distances) == pytest.approx(record["mean_hamming"])
    assert min(distances) == record["minimum_hamming"]


def test_of_nine_patches_the_first_nine_are_the_authors_and_the_rest_as_far_as_can_be():
    (record,) = (record for record in RECORDS if record["patches"] == 9)
    table = table_of(record)
    assert table[:9].tolist() == record["permutations"][:9]
    every = np.array(list(permutations(range(9))), dtype=np.uint8)
    for row in range(9, record["count"]):
        sums = sum((every != taken).sum(1) for taken in table[:row])
        assert (table[row] != table[:row]).sum() == sums.max()
    assert len({tuple(row) for row in table.tolist()}) == record["count"]


def method_of(seed: int = 0, **options: Any) -> Jigsaw:
    keys = {"permutations": 20, "patch_dim": 4} | options
    return Jigsaw(Jigsaw.Config(**keys), ToyParts(Recipe(global_batch_images=4, seed=seed)), 4)


def batch_of(images: int, side: int) -> Batch:
    """Red is the column of a pixel, green its row."""
    steps = torch.arange(side, dtype=torch.uint8).expand(side, side)
    view = torch.stack([steps, steps.T, torch.zeros_like(steps)]).expand(images, 1, 3, side, side).contiguous()
    return Batch(views={"global": view}, samples=torch.arange(images), epoch=0, seed=3)


@pytest.mark.parametrize("grid", [2, 3])
def test_the_patch_in_each_place_is_of_the_cell_that_the_answers_row_says(grid):
    method, batch = method_of(grid=grid), batch_of(60, 51)
    prepared = method.prepare(batch)
    patches, answers = prepared.views["patches"], method.targets(prepared)["permutation"]
    cell = 51 // grid
    jitter = round(0.247 * cell)
    assert patches.shape == (60, grid**2, 3, cell - jitter, cell - jitter)
    column, row = patches[:, :, 0, 0, 0].long(), patches[:, :, 1, 0, 0].long()
    assert torch.equal(row // cell * grid + column // cell, method.permutations[answers])
    assert int((column % cell).max()) == int((row % cell).max()) == jitter > 0
    assert len(set(answers.tolist())) > 10


def test_a_view_of_255_pixels_has_the_published_patches_of_64():
    assert Jigsaw.views(Jigsaw.Config())["global"].size == 255
    assert method_of().prepare(batch_of(2, 255)).views["patches"].shape == (2, 9, 3, 64, 64)


@pytest.mark.parametrize(("view", "side"), [(255, 64), (240, 60), (30, 8)])
def test_its_sides_are_those_of_the_patches_that_the_encoder_gets(view, side):
    words = ["recipe.method.name=jigsaw", f"recipe.views.global.size={view}"]
    assert Jigsaw.sides(load_config("digits_demo", words).recipe) == [side]
    assert method_of().prepare(batch_of(2, view)).views["patches"].shape[-1] == side


def test_the_table_is_in_the_checkpoint_and_another_seed_has_another():
    method = method_of()
    assert method.state_dict()["permutations"].shape == (20, 9)
    assert torch.equal(method.permutations, method_of().permutations)
    assert not torch.equal(method.permutations, method_of(seed=1).permutations)


@pytest.mark.parametrize(("rank", "lines"), [(0, ["looking for 5 of the permutations of 4 patches"]), (1, [])])
def test_a_table_that_takes_long_is_said_by_one_process_in_a_log_too(monkeypatch, capsys, rank, lines):
    @contextmanager
    def at_once(what: str, *, write: Callable[[str], object], active: bool) -> Iterator[None]:
        if active:
            write(what)
        yield

    monkeypatch.setattr("simclr_dist.methods.permutations.said_when_slow", at_once)
    monkeypatch.setattr("simclr_dist.methods.permutations.rank_here", lambda: rank)
    far_permutations.cache_clear()
    far_permutations(4, 5, 0)
    assert capsys.readouterr().err.splitlines() == lines


def test_more_permutations_than_there_are_are_refused():
    with pytest.raises(UserError, match=r"recipe\.method\.permutations: 4 patches have 24 permutations, not 100"):
        load_config("digits_demo", ["recipe.method.name=jigsaw", "recipe.method.grid=2"])


def test_its_pictures_are_the_patches_that_the_network_sees_and_the_view_without_the_room_between_them():
    recipe = load_config("digits_demo", ["recipe.method.name=jigsaw", "recipe.method.permutations=20"]).recipe
    recipe.seed = 3
    batch = batch_of(2, 30)
    patches = method_of(seed=3).prepare(batch).views["patches"]
    seen, answer = Jigsaw.pictures(recipe, batch).unbind(1)
    side = patches.shape[-1]
    for place in range(9):
        top, left = 10 * (place // 3), 10 * (place % 3)
        assert torch.equal(seen[:, :, top : top + side, left : left + side], patches[:, place])
        red = answer[:, 0, top, left].long()
        assert torch.equal(red // 10, torch.full_like(red, place % 3))
