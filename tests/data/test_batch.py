"""The batch that a method sees: its draws, its parts, and what the device makes of it."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.registry import method_keys
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.data.loading.batches import ViewBatches
from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.sources.base import ArraySource
from tests.support.two_sizes import NAME

IMAGES, BATCH, SIDE = 40, 12, 16
CPU = torch.device("cpu")
RECIPE = Recipe(
    seed=3, global_batch_images=BATCH, data=Data(source="digits", image_size=SIDE), method=method_keys(NAME)
)
ORDER = SampleOrder(seed=RECIPE.seed, images=IMAGES, global_batch_images=BATCH)


def batches(colors: bool = True, rank: int = 0, processes: int = 1) -> ViewBatches:
    pixels = np.random.default_rng(1).integers(0, 256, (IMAGES, 3, 20, 20), dtype=np.uint8)
    source = ArraySource(pixels, np.arange(IMAGES) % 3, ["a", "b", "c"])
    return ViewBatches(source, RECIPE, ORDER, rank, processes, colors=colors)


def of(samples: list[int], *, epoch: int = 2, seed: int = 3) -> Batch:
    """Black views of these sample ids."""
    return replace(
        blank_batch(RECIPE, len(samples), CPU), samples=torch.tensor(samples, dtype=torch.int64), epoch=epoch, seed=seed
    )


def tensors(batch: Batch) -> dict[str, Tensor]:
    """Every tensor of a batch by where it stands."""
    choices = {
        f"choices.{name}.{number}": column for name, each in batch.choices.items() for number, column in enumerate(each)
    }
    return {
        **{f"views.{name}": views for name, views in batch.views.items()},
        **choices,
        "samples": batch.samples,
        "labels": batch.labels,
    }


# ---------------------------------------------------------------------------------------------- draws


def test_draws_are_numbers_from_0_to_1_for_every_image():
    drawn = of(list(range(1000))).draws("rotation", 5)
    assert (drawn.shape, drawn.dtype) == ((1000, 5), torch.float64)
    assert 0 <= drawn.min() < 0.001
    assert 0.999 < drawn.max() < 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert len(drawn.unique()) == drawn.numel()


@pytest.mark.parametrize(
    "other", [[7], [7, 7], list(range(99, -1, -1)), list(range(50, 60))], ids=["one", "twice", "back", "part"]
)
def test_draws_do_not_depend_on_the_images_beside(other):
    assert torch.equal(of(other).draws("rotation", 4), of(list(range(100))).draws("rotation", 4)[other])


def test_the_first_draws_do_not_depend_on_how_many_there_are():
    assert torch.equal(of([4, 5]).draws("rotation", 7)[:, :3], of([4, 5]).draws("rotation", 3))


@pytest.mark.parametrize("images", [1, 4, 5])
def test_chunks_draw_what_the_whole_draws(images):
    whole = batches()[4]
    parts = torch.cat([part.draws("noise", 3) for part in whole.split(images)])
    assert torch.equal(parts, whole.draws("noise", 3))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_draw_what_one_draws(processes):
    parts = torch.cat([batches(rank=rank, processes=processes)[4].draws("noise", 3) for rank in range(processes)])
    assert torch.equal(parts, batches()[4].draws("noise", 3))


def test_another_interpreter_draws_the_same():
    code = (
        "import hashlib, torch; from simclr_dist.data.loading.batch import Batch; "
        "b = Batch(views={'v': torch.zeros(9, 1)}, samples=torch.arange(9), epoch=2, seed=3); "
        "print(hashlib.sha256(b.draws('rotation', 4).numpy().tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == hashlib.sha256(of(list(range(9))).draws("rotation", 4).numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        of([4, 5]).draws("Rotation", 3),
        of([4, 5]).draws("", 3),
        of([4, 5], epoch=3).draws("rotation", 3),
        of([4, 5], seed=4).draws("rotation", 3),
        of([4, 5], seed=2**62).draws("rotation", 3),
        of([6, 7]).draws("rotation", 3),
    ],
    ids=["purpose", "no purpose", "epoch", "seed", "large seed", "images"],
)
def test_another_purpose_epoch_seed_or_image_has_other_draws(other):
    assert not (other == of([4, 5]).draws("rotation", 3)).any()


def test_draws_are_not_those_of_the_views():
    from simclr_dist.random.philox import Purpose, uniforms

    drawn = of([4, 5]).draws("", 3)
    for purpose in Purpose:
        assert not (drawn.numpy() == uniforms(3, purpose, 2, np.array([4, 5]), 0, 3)).any()


def test_draws_stand_where_the_views_are():
    batch = of([1, 2])
    there = replace(batch, views={name: each.to("meta") for name, each in batch.views.items()})
    assert there.draws("rotation", 2).device.type == "meta"


# ---------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("images", [1, 4, 5, BATCH])
def test_the_parts_of_a_batch_are_all_of_it_in_order(images):
    batch = replace(batches(colors=False)[0], broken=[(3, "torn")])
    assert len(batch.choices) == 2
    parts = batch.split(images)
    assert [len(part) for part in parts] == [min(images, BATCH - start) for start in range(0, BATCH, images)]
    for name, whole in tensors(batch).items():
        assert torch.equal(torch.cat([tensors(part)[name] for part in parts]), whole), name
    for part in parts:
        assert (part.epoch, part.seed, part.color_forms) == (batch.epoch, batch.seed, batch.color_forms)
        assert part.broken == []
    assert batch.broken == [(3, "torn")]


def test_a_batch_without_labels_is_split_and_moved_too():
    batch = replace(batches()[0], labels=None)
    assert [part.labels for part in batch.to(CPU).split(6)] == [None, None]


@pytest.mark.parametrize("colors", [True, False], ids=["rendered", "crops"])
def test_pinning_changes_nothing_and_reaches_every_tensor(monkeypatch, colors):
    batch = replace(batches(colors)[0], broken=[(3, "torn")])
    reached = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: reached.append(tensor.data_ptr()) or tensor.clone())
    pinned = batch.pin_memory()
    assert sorted(reached) == sorted(each.data_ptr() for each in tensors(batch).values())
    assert all(torch.equal(tensors(pinned)[name], each) for name, each in tensors(batch).items())
    assert (pinned.epoch, pinned.seed, pinned.broken) == (batch.epoch, batch.seed, batch.broken)
    assert pinned.color_forms == batch.color_forms


# ---------------------------------------------------------------------------------------------- on the device


def test_colours_made_on_the_device_are_those_of_the_cpu_renderer():
    # The blur is summed in another order: by 1 in about one pixel of 50,000 (data/rendering/device_.py).
    for step in range(3):
        made, expected = batches(colors=False)[step].to(CPU), batches()[step]
        assert made.choices == {}
        for name, views in expected.views.items():
            apart = (made.views[name].int() - views.int()).abs()
            assert apart.max() <= 1
            assert (apart > 0).double().mean() < 1e-3
        assert torch.equal(made.labels, expected.labels)
        assert torch.equal(made.samples, expected.samples)


def test_chunks_of_crops_become_the_chunks_of_the_views():
    crops = batches(colors=False)[0]
    whole = crops.to(CPU)
    for part, expected in zip(crops.split(5), whole.split(5), strict=True):
        assert all(torch.equal(part.to(CPU).views[name], views) for name, views in expected.views.items())


def test_a_batch_on_a_device_keeps_its_sample_ids_on_the_cpu():
    there = batches()[0].to(torch.device("meta"))
    assert there.device.type == there.labels.device.type == "meta"
    assert there.samples.device == CPU


def test_a_blank_batch_has_the_recipes_groups_and_sizes():
    blank = blank_batch(RECIPE, 4, CPU)
    shapes = {name: tuple(views.shape) for name, views in blank.views.items()}
    assert shapes == {"large": (4, 2, 3, SIDE, SIDE), "small": (4, 3, 3, 8, 8)}
    assert not any(views.any() for views in blank.views.values())
    assert (len(blank), blank.samples.tolist(), blank.labels.tolist()) == (4, [0, 1, 2, 3], [0, 0, 0, 0])


# ---------------------------------------------------------------------------------------------- preview


def test_a_contact_sheet_shows_views_of_every_size_in_frames_of_the_largest():
    source = batches().source
    sheet = contact_sheet(source, RECIPE, images=2, epochs=2)
    cell = SIDE + 2
    assert sheet.shape == (3, 2 * cell + 2, (1 + 2 * (2 + 3)) * cell + 2)
    tiles = sheet[:, 2:, 2:].unfold(1, SIDE, cell).unfold(2, SIDE, cell)  # (3, rows, columns, side, side)
    large, small = tiles[:, :, [1, 2, 6, 7]], tiles[:, :, [3, 4, 5, 8, 9, 10]]
    frame = torch.ones(SIDE, SIDE, dtype=torch.bool)
    frame[4:12, 4:12] = False
    assert (small[..., frame] == 255).all()
    assert not (large[..., frame] == 255).all(-1).any()
    # The first image in the second epoch: the run's own third small view.
    batch = batches()
    views = replace(batch, order=_OnlySample(0))[1].views["small"]
    assert torch.equal(small[:, 0, 5, 4:12, 4:12], views[0, 2])


class _OnlySample:
    """An order of one image, in epoch 1."""

    def __init__(self, sample: int) -> None:
        self.sample = sample

    def epoch(self, step: int) -> int:
        return step

    def samples(self, step: int, rank: int, processes: int) -> np.ndarray:
        return np.array([self.sample])
