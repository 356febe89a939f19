"""Masks go where their images go: crop, resize, flip; in every renderer, share and worker."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr_dist.config import Config
from simclr_dist.config.recipe import Data, Recipe
from simclr_dist.config.registry import method_keys
from simclr_dist.config.views import ViewGroup
from simclr_dist.data.loading.batch import Batch, blank_batch
from simclr_dist.data.loading.batches import ViewBatches, build_batches
from simclr_dist.data.loading.order import SampleOrder, build_order
from simclr_dist.data.loading.workers import load_steps
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.rendering.masks import render_masks
from simclr_dist.data.rendering.renderers import RENDERERS
from simclr_dist.data.sources.base import IGNORED, BrokenImageError
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.data.views.view_geometry import ViewGeometry
from simclr_dist.errors import UserError
from tests.support.masked import Dense, Thresholded, own_threshold
from tests.support.toy_methods import name_of

BATCH = 12
CPU = torch.device("cpu")
PLAIN = {"color_probability": 0.0, "grayscale_probability": 0.0, "blur_probability": 0.0}
VIEWS = {
    "image": ViewGroup(count=2, crop_area_min=0.2, **PLAIN),
    "small": ViewGroup(count=1, size=9, crop_area_min=0.2, **PLAIN),
    "copy": ViewGroup(count=1, crop_of="image", crop_area_min=0.2, blur_probability=0.0),
}


def batches(source: Thresholded | None = None, side: int = 21, rank: int = 0, processes: int = 1) -> ViewBatches:
    recipe = Recipe(seed=5, global_batch_images=BATCH, data=Data(image_size=side), views=VIEWS)
    source = source or Thresholded()
    order = SampleOrder(seed=recipe.seed, images=len(source), global_batch_images=BATCH)
    return ViewBatches(source, recipe, order, rank, processes, masks=True, geometry=True)


def assert_aligned(views: Tensor, masks: Tensor) -> None:
    """Every pixel of a mask is its view's threshold, but where an edge goes through the centre of a pixel."""
    on_the_edge = ((views[..., :2, :, :].int() - 127).abs() <= 1).any(-3)
    assert (own_threshold(views) == masks)[~on_the_edge].all()
    assert on_the_edge.float().mean() < 0.05


# 96: most crops are enlarged; 8: all are made smaller.
@pytest.mark.parametrize("side", [8, 21, 96])
@pytest.mark.parametrize("renderer", [*RENDERERS, "device"])
def test_a_picture_whose_mask_is_its_own_threshold_stays_so_in_every_renderer(renderer, side):
    made = batches(side=side)
    if renderer == "device":
        batch = replace(made, colors=False)[1].to(CPU)
    else:
        batch = replace(made, renderer=RENDERERS[renderer])[1]
    for name in ("image", "small"):
        assert batch.masks[name].shape == (*batch.views[name].shape[:2], *batch.views[name].shape[3:])
        assert_aligned(batch.views[name], batch.masks[name])
    flips = batch.geometry["image"].flip
    assert flips.any()
    assert not flips.all()
    assert torch.equal(batch.masks["copy"][:, 0], batch.masks["image"][:, 0])
    assert not torch.equal(batch.views["copy"][:, 0], batch.views["image"][:, 0])


@pytest.mark.parametrize("renderer", RENDERERS)
def test_views_are_the_same_with_masks_and_without(renderer):
    made = replace(batches(), renderer=RENDERERS[renderer])
    with_them, without = made[0], replace(made, masks=False, geometry=False)[0]
    assert (without.masks, without.geometry) == ({}, {})
    assert all(torch.equal(with_them.views[name], without.views[name]) for name in VIEWS)


def test_masks_are_torchvisions_nearest_by_centres():
    random = np.random.default_rng(0)
    for height, width, side in ((37, 53, 16), (5, 7, 32), (64, 61, 64)):
        mask = torch.from_numpy(random.integers(0, 256, (height, width), dtype=np.uint8))
        box = (2, 1, height - 3, width - 2)
        geometry = ViewGeometry(torch.tensor([[box]]), torch.tensor([[True]]), torch.tensor([[height, width]]))
        theirs = tv.resized_crop(mask[None], *box, [side, side], interpolation=InterpolationMode.NEAREST_EXACT)
        assert torch.equal(render_masks([mask], geometry, side)[0, 0], tv.horizontal_flip(theirs)[0])


def test_ignored_pixels_stay_ignored_and_no_other_value_appears():
    class Bordered(Thresholded):
        def read_with_mask(self, sample):
            image, mask = super().read_with_mask(sample)
            mask[:, mask.shape[1] // 2 :] = IGNORED
            mask[:, : mask.shape[1] // 2] = 3
            return image, mask

    batch = batches(Bordered())[0]
    for masks in batch.masks.values():
        assert set(masks.unique().tolist()) == {3, IGNORED}


def test_the_geometry_says_where_a_view_lies():
    batch, source = batches()[0], Thresholded()
    geometry = batch.geometry["image"]
    for row, sample in enumerate(batch.samples.tolist()):
        image = source.read(sample)
        assert geometry.source[row].tolist() == list(image.shape[1:])
        for view in range(2):
            made = tv.resized_crop(image, *geometry.box[row, view].tolist(), [21, 21], antialias=True)
            made = tv.horizontal_flip(made) if geometry.flip[row, view] else made
            assert torch.equal(made, batch.views["image"][row, view])


def tensors(batch: Batch) -> list[Tensor]:
    return [*batch.masks.values(), *(each for geometry in batch.geometry.values() for each in geometry)]


@pytest.mark.parametrize(("processes", "workers"), [(1, 2), (2, 0), (2, 1), (4, 0)])
def test_masks_and_geometry_are_the_same_on_any_number_of_processes_and_workers(processes, workers):
    whole = [tensors(batches()[step]) for step in range(3)]
    shares = [
        load_steps(batches(rank=rank, processes=processes), range(3), workers=workers, pin_memory=False)
        for rank in range(processes)
    ]
    for step, parts in enumerate(zip(*shares, strict=True)):
        together = [torch.cat(each) for each in zip(*map(tensors, parts), strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(together, whole[step], strict=True))


def test_chunks_and_devices_take_masks_and_geometry_along():
    batch = batches()[0]
    chunks = [tensors(chunk) for chunk in batch.split(5)]
    assert [len(chunk[0]) for chunk in chunks] == [5, 5, 2]
    for whole, *parts in zip(tensors(batch), *chunks, strict=True):
        assert torch.equal(torch.cat(parts), whole)
    assert all(tensor.device.type == "meta" for tensor in tensors(batch.copied_to(torch.device("meta"))))
    assert len(batch.device_tensors) == len(VIEWS) + len(tensors(batch))


def test_a_method_that_needs_masks_and_geometry_is_given_them_and_no_other_is():
    recipe = Recipe(global_batch_images=4, data=Data(image_size=16), method=method_keys(name_of(Dense)))
    source = Thresholded()
    for asks, keys in ((True, recipe), (False, replace(recipe, method=method_keys("simclr")))):
        made = build_batches(Config(recipe=keys), source, build_order(keys, len(source)))[0]
        for batch in (made, blank_batch(keys, 4, CPU)):
            assert ("global" in batch.masks, "global" in batch.geometry) == (asks, asks)
    blank = blank_batch(recipe, 4, CPU)
    for name, tensor in (("views", made.views["global"]), ("masks", blank.masks["global"])):
        assert tensor.shape[-2:] == (16, 16), name
    assert blank.masks["global"].unique().tolist() == [0, 1]
    assert blank.geometry["global"].box.shape == (4, 2, 4)


def test_a_method_that_needs_masks_is_refused_where_there_are_none():
    recipe = Recipe(data=Data(source="digits"), method=method_keys(name_of(Dense)))
    with pytest.raises(UserError, match=r"recipe.data.source: .*Dense needs masks, and the images of 'digits'"):
        open_for_pretraining(Config(recipe=recipe))


def test_the_contact_sheet_of_a_method_with_masks_shows_each_views_mask_beside_it():
    recipe = Recipe(data=Data(image_size=16), method=method_keys(name_of(Dense)), views={"image": VIEWS["image"]})
    sheet = contact_sheet(Thresholded(), recipe, images=3, epochs=1)
    assert contact_sheet(Thresholded(), replace(recipe, method=method_keys("simclr")), 3, 1).shape[2] < sheet.shape[2]
    tiles = sheet[:, 2:, 2:]  # of 16 pixels, 2 between
    tiles = tiles.unfold(1, 16, 18).unfold(2, 16, 18).permute(1, 2, 0, 3, 4)
    assert tiles.shape[:2] == (3, 5)
    palette = torch.tensor([[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]], dtype=torch.uint8)
    views, drawn = tiles[:, 1::2], tiles[:, 2::2]
    masks = (drawn[:, :, None] == palette[:, :, None, None]).all(3).int().argmax(2)
    assert_aligned(views, masks)


def test_a_substitute_brings_its_own_mask_and_where_all_are_broken_nothing_counts():
    class Broken(Thresholded):
        def read_with_mask(self, sample):
            if sample in broken:
                raise BrokenImageError(f"{sample}: broken by the test")
            return super().read_with_mask(sample)

    whole = batches()
    first = int(whole.order.samples(0)[0])
    broken = {first}
    batch = batches(Broken())[0]
    assert first not in batch.samples
    assert_aligned(batch.views["image"], batch.masks["image"])
    broken = set(range(len(Thresholded())))
    assert (batches(Broken())[0].masks["image"] == IGNORED).all()
