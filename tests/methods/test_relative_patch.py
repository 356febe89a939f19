"""Relative patch: its places are those of cdoersch/deepcontext, its answers belong to the patches that are seen."""

import pytest
import torch
from torch import Tensor

from simclr_dist.config import Recipe, load_config
from simclr_dist.data.loading.batch import Batch
from simclr_dist.errors import UserError
from simclr_dist.methods.patches import Neighbourhood, cut, without_color_shortcut
from simclr_dist.methods.relative_patch import OFFSETS, RelativePatch, answers_of, places_of
from tests.support.golden import ToyEncoder, ToyParts, golden

GOLDEN = golden("pretext")["relative_patch"]
MEAN = torch.tensor([120.0, 110.0, 100.0])


class Parts(ToyParts):
    def encoder(self) -> ToyEncoder:
        encoder = super().encoder()
        encoder.mean = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
        return encoder


def method_of(**options: object) -> RelativePatch:
    return RelativePatch(RelativePatch.Config(hidden_dim=8, **options), Parts(Recipe(global_batch_images=4)), 4)


def batch_of(views: Tensor) -> Batch:
    return Batch(views={"global": views}, samples=torch.arange(len(views)), epoch=0, seed=3)


def views_that_tell_their_place(images: int, side: int) -> Tensor:
    """Red is the column of a pixel, green its row."""
    steps = torch.arange(side, dtype=torch.uint8)
    view = torch.stack([steps.expand(side, side), steps[:, None].expand(side, side), torch.zeros(side, side)])
    return view.to(torch.uint8).expand(images, 1, 3, side, side).contiguous()


def test_sides_and_sizes_are_those_of_the_authors():
    assert [list(offset) for offset in OFFSETS] == GOLDEN["offsets_xy_in_label_order"]
    keys = RelativePatch.Config()
    side = RelativePatch.views(keys)["global"].size
    assert tuple(Neighbourhood.of(side, keys.gap, keys.jitter)) == (GOLDEN["patch"], GOLDEN["gap"], GOLDEN["jitter"])


@pytest.mark.parametrize(("view", "side"), [(398, 96), (60, 14)])
def test_its_sides_are_those_of_the_patches_that_the_encoder_gets(view, side):
    words = ["recipe.method.name=relative_patch", f"recipe.views.global.size={view}"]
    assert RelativePatch.sides(load_config("digits_demo", words).recipe) == [side]
    found = method_of().prepare(batch_of(views_that_tell_their_place(2, view)))
    assert {each.shape[-1] for each in found.views.values()} == {side}


@pytest.mark.parametrize("neighbours", [1, 8])
def test_the_answer_is_where_the_second_patch_lies_from_the_first_in_both_orders(neighbours):
    method, side = method_of(neighbours=neighbours), 60
    batch = batch_of(views_that_tell_their_place(40, side))
    grid = Neighbourhood.of(side, 0.5, 0.073)
    places = places_of(batch, method.config)
    patches = cut(batch.views["global"][:, 0], places.left, places.top, places.patch)
    assert patches.shape == (40, 1 + neighbours, 3, grid.patch, grid.patch)
    corners = patches[..., :2, 0, 0].long()
    assert torch.equal(patches[..., 0, :, -1], patches[..., 0, :, 0] + grid.patch - 1)
    step, slack = grid.patch + grid.gap, 2 * grid.jitter
    answers = method.targets(batch)["side"]
    for pair in range(neighbours):
        for order in (0, 1):
            first, second = (corners[:, 0], corners[:, 1 + pair])[:: 1 - 2 * order]
            offset = torch.tensor(OFFSETS)[answers[:, pair, order]]
            assert ((second - first) - step * offset).abs().max() <= slack
    assert (answers[..., 0].sort(1).values.diff(dim=1) > 0).all()  # no neighbour twice


def test_patches_are_moved_by_the_whole_jitter_and_never_farther():
    method, side = method_of(jitter=0.2, neighbours=8), 60
    grid = Neighbourhood.of(side, 0.5, 0.2)
    batch = batch_of(views_that_tell_their_place(200, side))
    places = places_of(batch, method.config)
    assert int(places.left.min()) >= 0
    assert int(places.left.max()) + grid.patch <= side
    apart = (places.left[:, 1:] - places.left[:, :1]).abs()
    below = torch.tensor(OFFSETS)[answers_of(batch, 8)][..., 0] == 0
    assert int(apart[below].max()) == 2 * grid.jitter > 0


def photographs() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (6, 2, 3, 9, 9), dtype=torch.uint8)


@pytest.mark.parametrize("shortcut", ["drop", "project", "none"])
def test_every_patch_has_the_authors_contrast_around_the_mean_that_the_encoder_takes_off(shortcut):
    draws = torch.rand(6, 2, 2, dtype=torch.float64)
    seen = without_color_shortcut(photographs(), shortcut, draws, MEAN) - MEAN[:, None, None]
    contrast = seen.square().mean((-3, -2, -1)).sqrt()
    assert contrast == pytest.approx(GOLDEN["root_mean_square_after_scaling"], rel=1e-5)


def test_dropping_leaves_one_channel_and_noise_of_one_pixel_value_in_its_proportion():
    draws = torch.rand(6, 2, 2, dtype=torch.float64)
    photos = photographs()
    seen = without_color_shortcut(photos, "drop", draws, MEAN).double() - MEAN[:, None, None]
    for image, patches in enumerate(seen):
        for number, patch in enumerate(patches):
            kept = int(draws[image, number, 0] * 3)
            own = photos[image, number, kept].double()
            scale = patch[kept].std() / own.std()
            assert torch.allclose(patch[kept], scale * (own - own.mean()), atol=1e-4)
            for other in {0, 1, 2} - {kept}:
                assert float(patch[other].abs().max()) <= float(scale) * 0.5 + 1e-4
                assert float(patch[other].std()) == pytest.approx(float(scale) * 12**-0.5, rel=0.3)
    assert not torch.equal(seen[0, 0, 0], seen[0, 1, 0])


def test_projecting_leaves_nothing_along_the_axis_from_green_to_magenta_and_the_rest_as_it_is():
    draws = torch.zeros(6, 2, 2, dtype=torch.float64)
    photos, axis = photographs().double(), torch.tensor([-1.0, 2.0, -1.0], dtype=torch.float64)
    seen = without_color_shortcut(photographs(), "project", draws, MEAN).double() - MEAN[:, None, None]
    along = torch.einsum("c,ncxhw->nhwx", axis, seen.movedim(2, 1))
    assert float(along.abs().max()) < 1e-3
    centred = photos - photos.mean((-2, -1), keepdim=True)
    expected = centred - torch.einsum("c,d,nkdhw->nkchw", axis, axis, centred) / 6
    assert torch.allclose(seen / seen.norm(), expected / expected.norm(), atol=2e-2)


def test_a_patch_of_one_colour_stays_a_number():
    black = torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8)
    for shortcut in ("drop", "project", "none"):
        assert without_color_shortcut(black, shortcut, torch.zeros(1, 1, 2), MEAN).isfinite().all()


def test_views_too_small_for_three_patches_are_refused():
    with pytest.raises(UserError, match=r"recipe.views.global.size: no three patches in a row fit into views of 8"):
        load_config(
            "digits_demo", ["recipe.method.name=relative_patch", "recipe.views.global.size=8", "recipe.method.gap=4"]
        )


def test_its_pictures_are_two_patches_side_by_side_and_both_where_they_were():
    recipe = load_config("digits_demo", ["recipe.method.name=relative_patch", "recipe.views.global.size=60"]).recipe
    batch = batch_of(views_that_tell_their_place(5, 60))
    seen, answer = RelativePatch.pictures(recipe, batch).unbind(1)
    patch = Neighbourhood.of(60, 0.5, 0.073).patch
    ground = (seen[:, :, 0, 0])[:, :, None, None]
    left, right = (seen != ground).any(1)[..., :patch], (seen != ground).any(1)[..., -patch:]
    assert left.flatten(1).sum(1).tolist() == right.flatten(1).sum(1).tolist() == [patch**2] * 5
    there = answer == batch.views["global"][:, 0]
    assert there[:, :2].all(1).flatten(1).sum(1).tolist() == [2 * patch**2] * 5
