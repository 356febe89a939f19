"""Pixel contrast: partners over the global batch, images without a mask, sizes of maps and masks, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from simclr_dist.config import load_config
from simclr_dist.config.registry import method_class
from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.errors import UserError
from simclr_dist.losses.pixel_contrast import pixel_contrast
from simclr_dist.losses.pixel_cosines import pixel_cosines
from simclr_dist.methods.pixel_contrast import PixelContrast, partners
from simclr_dist.models.resizing import resized_logits, resized_map, resized_mask
from tests.support.golden import ToyParts, toy_recipe
from tests.support.processes import relative_error, run_distributed

SIDE = 4


def toy(**options: Any) -> PixelContrast:
    keys = {"hidden_dim": 8, "output_dim": 8, "map_size": SIDE}
    return PixelContrast(PixelContrast.Config(**keys | options), ToyParts(toy_recipe(8)), 100).double()


def batch_of(images: int, epoch: int = 0, labelled: Tensor | None = None) -> Batch:
    """This process's share of images of random classes, those that are not ``labelled`` without a mask."""
    masks = torch.randint(3, (images, 1, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    if labelled is not None:
        masks[~labelled] = 255
    views = torch.zeros(images, 1, 3, SIDE, SIDE, dtype=torch.uint8)
    whole = Batch(
        views={"image": views, "copy": views}, samples=7 * torch.arange(images), epoch=epoch, seed=3,
        masks={"image": masks, "copy": masks},
    )  # fmt: skip
    return whole.split(images // process_count())[process_rank()]


def _partners(labelled: Tensor) -> list[Tensor]:
    return [toy()._partners(batch_of(8, epoch, labelled)) for epoch in (0, 1)]


def test_partners_are_those_of_one_process_drawn_anew_each_epoch_and_never_the_image_itself():
    labelled = torch.tensor([True, True, False, True, False, True, True, False])
    alone = _partners(labelled)
    for count in (2, 4):
        for found in run_distributed(count, _partners, labelled):
            assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))
    assert not torch.equal(*alone)
    for found in alone:
        assert sorted(found.tolist()) == list(range(8))
        assert not (found == torch.arange(8)).any()
        assert torch.equal(labelled[found], labelled)


def test_all_other_images_are_partners_alike_often():
    drawn = torch.rand(3000, 5, generator=torch.Generator().manual_seed(0))
    found = torch.stack([partners(each, torch.ones(5, dtype=torch.bool)) for each in drawn])
    shares = torch.stack([(found == image).double().mean(0) for image in range(5)])
    assert torch.allclose(shares[~torch.eye(5, dtype=torch.bool)], torch.tensor(0.25).double(), atol=0.04)


@pytest.mark.parametrize("labelled", [[True] + 3 * [False], 4 * [False], 4 * [True]])
def test_one_labelled_image_or_none_is_no_fault(labelled):
    found = partners(torch.rand(4), torch.tensor(labelled))
    assert sorted(found.tolist()) == [0, 1, 2, 3]


def test_an_image_without_a_mask_is_left_out_or_its_pixels_are_held_against_their_places_in_the_copy():
    labelled = torch.tensor([True, False, True, True])
    batch = batch_of(4, labelled=labelled)
    z = F.normalize(torch.randn(4, 2, SIDE * SIDE, 8, dtype=torch.float64), dim=3)
    left_out, pixels = (toy(unlabelled=each).loss({"z": z}, {}, batch)["loss"] for each in ("left_out", "pixels"))
    own = F.log_softmax(z[1, 0] @ z[1, 1].T / 0.07, dim=1).diagonal().mean()
    assert float(pixels - left_out) == pytest.approx(float(-own / 4), rel=1e-10)
    z.requires_grad_()
    toy().loss({"z": z}, {}, batch)["loss"].backward()
    assert [bool(each.any()) for each in z.grad] == labelled.tolist()


def test_pixels_of_one_class_in_every_image_are_pulled_together_across_images():
    """Within images the classes need not be alike: of another image's pixels, only cross-image losses know."""
    z = F.normalize(torch.randn(2, 2, 6, 8, dtype=torch.float64), dim=3).requires_grad_()
    labels = torch.zeros(2, 2, 6, dtype=torch.int64)
    labels[:, :, 3:] = 1
    for loss, reached in (("within", False), ("cross", True)):
        z.grad = None
        kept = torch.full_like(labels, 255)
        kept[0, 0], kept[1, 1] = labels[0, 0], labels[1, 1]  # an image, and the copy of its partner
        kept[0, 1, 0] = 2
        pixel_contrast(z, kept, 0.1, loss=loss, partners=torch.tensor([1, 0])).backward()
        assert bool(z.grad[1, 1].any()) == reached


@pytest.mark.parametrize(("side", "new"), [(5, 9), (9, 5), (7, 7), (1, 4), (4, 1), (65, 17)])
def test_maps_are_resized_as_torch_does_it_with_aligned_corners(side, new):
    maps = torch.randn(2, 3, side, side, dtype=torch.float64, requires_grad=True)
    found, expected = resized_map(maps, new), F.interpolate(maps, (new, new), mode="bilinear", align_corners=True)
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.randn_like(found)
    one, other = (torch.autograd.grad((each * weights).sum(), maps)[0] for each in (found, expected))
    assert relative_error(one, other) < 1e-12


@pytest.mark.parametrize(("sides", "size"), [((4, 6), (32, 48)), ((9, 5), (7, 5)), ((1, 1), (4, 3))])
def test_logits_are_resized_as_torch_does_it_without_aligned_corners(sides, size):
    maps = torch.randn(2, 3, *sides, dtype=torch.float64, requires_grad=True)
    found, expected = resized_logits(maps, size), F.interpolate(maps, size, mode="bilinear", align_corners=False)
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.randn_like(found)
    one, other = (torch.autograd.grad((each * weights).sum(), maps)[0] for each in (found, expected))
    assert relative_error(one, other) < 1e-12


class _TakenFromTheHost(TorchDispatchMode):
    """How often a kernel is given a tensor of the CPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(isinstance(each, Tensor) and each.device.type == "cpu" for each in args)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("resized", [resized_map, resized_mask])
def test_resizing_copies_nothing_from_the_host_which_a_recorded_step_could_not(resized):
    with _TakenFromTheHost() as taken:
        resized(torch.empty(2, 3, 4, 4, device="meta"), 9)
    assert not taken.count


def test_masks_take_the_nearest_pixel_corners_on_corners_and_halves_upwards():
    mask = torch.arange(5, dtype=torch.uint8).repeat(5, 1)
    assert resized_mask(mask, 3)[0].tolist() == [0, 2, 4]
    assert resized_mask(mask, 9)[0].tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]  # places 0, 0.5, 1, ...
    assert torch.equal(resized_mask(mask, 5), mask)


def test_cosines_are_those_of_all_pairs_of_an_image_and_its_copy():
    z = F.normalize(torch.randn(2, 2, 9, 4, dtype=torch.float64), dim=3)
    labels = torch.randint(4, (2, 2, 9)).where(torch.rand(2, 2, 9) < 0.8, 255)
    same, other = [], []
    for rows, classes in zip(z, labels, strict=True):
        for pixel, own in zip(rows[0], classes[0], strict=True):
            cosines = rows[1] @ pixel
            for found, which in ((same, classes[1] == own), (other, (classes[1] != own) & (classes[1] != 255))):
                if own != 255 and which.any():
                    found.append(float(cosines[which].mean()))
    found = pixel_cosines(z, labels)
    assert float(found["same_class_cosine"]) == pytest.approx(sum(same) / len(same))
    assert float(found["class_margin"]) == pytest.approx(sum(same) / len(same) - sum(other) / len(other))
    assert float(found["labelled_pixels"]) == pytest.approx(float((labels != 255)[:, 0].double().mean()))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["recipe.views.copy.crop_of="], r"views\.copy\.crop_of: .* set it to image"),
        (["recipe.views.copy.size=7"], r"views\.copy\.size: 7 px are not recipe\.views\.image\.size, 16"),
        (["recipe.method.unlabelled=pixels", "recipe.method.form=release"], "of recipe.method.form=paper"),
        (["recipe.method.unlabelled=pixels", "recipe.method.loss=batch"], "leave unlabelled images out"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_the_cure(overrides, said):
    with pytest.raises(UserError, match=said):
        load_config("digits_demo", ["recipe.method.name=pixel_contrast", *overrides])


def test_a_copy_whose_size_is_that_of_the_images_by_another_key_is_of_equal_size():
    loaded = load_config("digits_demo", ["recipe.method.name=pixel_contrast", "recipe.views.copy.size=16"])
    assert loaded.recipe.data.image_size == 16


def test_it_needs_masks_and_its_two_views_are_of_the_same_places():
    assert method_class("pixel_contrast").needs == {"masks"}
    assert PixelContrast.views(PixelContrast.Config())["copy"].crop_of == "image"
