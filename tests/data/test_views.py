"""The random choices of views: a function of (seed, epoch, sample, view) alone, with the recipe's distributions."""

import hashlib
import subprocess
import sys
from dataclasses import astuple, fields, replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from simclr_dist.config.recipe import Recipe
from simclr_dist.config.views import ViewGroup, Views
from simclr_dist.data.views.affine_color import COLOR_OPERATIONS
from simclr_dist.data.views.draws import ViewParameters, draw_views
from simclr_dist.data.views.geometry import ASPECT_RATIOS, blur_kernel_size, crop_box
from simclr_dist.data.views.groups import draw_groups

MANY = 20_000
IDS = np.arange(MANY)
RECIPES = {
    "the paper's": Views(),
    "BYOL's second view": Views(blur_probability=0.1, solarize_probability=0.2, brightness=0.4, contrast=0.4, hue=0.1),
    "strong": Views(color_strength=2.0, hue=0.25, crop_area_min=0.3, crop_area_max=0.6, blur_sigma_min=1.5),
    "weak": Views(color_strength=0.25, flip_probability=0.1, color_probability=0.3, grayscale_probability=0.6),
}
# A wrong constant moves a share of 20,000 draws by far more; a right one fails once in 10,000 seeds.
UNLIKELY = 1e-4


@pytest.fixture(scope="module", params=RECIPES.values(), ids=RECIPES.keys())
def drawn(request) -> tuple[Views, ViewParameters]:
    return request.param, draw_views(request.param, 0, 0, IDS, 0)


def rows(parameters: ViewParameters, chosen: np.ndarray) -> list[np.ndarray]:
    return [column[chosen] for column in astuple(parameters)]


def assert_equal(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    assert low <= values.min()
    assert values.max() <= high
    assert stats.kstest(values, "uniform", args=(low, high - low)).pvalue > UNLIKELY


def test_a_group_takes_the_crop_and_flip_of_anothers_first_view_and_has_colors_of_its_own():
    views = {"image": ViewGroup(count=2), "copy": ViewGroup(count=2, crop_of="image")}
    image, copy = (group.parameters for group in draw_groups(Recipe(views=views), 0, IDS[:50]))
    for view in copy:
        for same in ("crop_attempts", "crop_place", "flip"):
            np.testing.assert_array_equal(getattr(view, same), getattr(image[0], same))
        assert not np.array_equal(view.color_factors, image[0].color_factors)
    assert not np.array_equal(copy[0].color_factors, copy[1].color_factors)
    assert not np.array_equal(image[0].crop_place, image[1].crop_place)


# ---------------------------------------------------------------------------------------------- a pure function


@pytest.mark.parametrize(
    "chosen",
    [np.array([7]), np.array([7, 7]), np.arange(99, -1, -1), np.arange(50, 60)],
    ids=["one", "twice", "back", "part"],
)
def test_the_choices_for_an_image_do_not_depend_on_the_images_drawn_with_it(chosen):
    together = draw_views(Views(), 3, 2, np.arange(100), 1)
    assert_equal(rows(draw_views(Views(), 3, 2, chosen, 1), np.arange(len(chosen))), rows(together, chosen))


def test_another_process_makes_the_same_choices():
    arguments = "Views(), 5, 4, np.arange(1000, 1100), 1"
    code = (
        "import hashlib, numpy as np; from dataclasses import astuple; from simclr_dist.config.views import Views; "
        "from simclr_dist.data.views.draws import draw_views; "
        f"print(hashlib.sha256(b''.join(c.tobytes() for c in astuple(draw_views({arguments})))).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    here = astuple(draw_views(Views(), 5, 4, np.arange(1000, 1100), 1))
    assert there == hashlib.sha256(b"".join(column.tobytes() for column in here)).hexdigest()


@pytest.mark.parametrize(
    "other", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (2**40, 0, 0)], ids=["view", "epoch", "seed", "high bits of the seed"]
)
def test_another_view_epoch_or_seed_makes_unrelated_choices(other):
    seed, epoch, view = other
    images = IDS[:4000]
    first, second = draw_views(Views(), 0, 0, images, 0), draw_views(Views(), seed, epoch, images, view)
    for entry in ("crop_attempts", "crop_place", "color_factors", "flip", "color", "grayscale", "blur_sigma"):
        one, two = (getattr(each, entry).reshape(len(images), -1).astype(np.float64) for each in (first, second))
        for column in range(one.shape[1]):
            assert abs(np.corrcoef(one[:, column], two[:, column])[0, 1]) < 5 / np.sqrt(len(images))


def test_the_epochs_of_one_image_are_drawn_as_independently_as_images():
    across = [draw_views(Views(), 0, epoch, IDS[5:6], 0) for epoch in range(1500)]
    assert_uniform(np.array([each.crop_place[0, 0] for each in across]), 0.0, 1.0)
    assert stats.binomtest(sum(bool(each.flip[0]) for each in across), len(across), 0.5).pvalue > UNLIKELY


def test_ids_beyond_32_bits_make_choices_of_their_own():
    near, far = draw_views(Views(), 0, 0, IDS[:100], 0), draw_views(Views(), 0, 0, IDS[:100] + 2**32, 0)
    assert not (near.crop_place == far.crop_place).any()


# ---------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize(
    ("choice", "probability"),
    [
        ("flip", "flip_probability"),
        ("color", "color_probability"),
        ("grayscale", "grayscale_probability"),
        ("blur_sigma", "blur_probability"),
        ("solarize", "solarize_probability"),
    ],
)
def test_an_operation_is_applied_as_often_as_the_recipe_says(drawn, choice, probability):
    recipe, parameters = drawn
    applied = int(np.count_nonzero(getattr(parameters, choice)))
    assert stats.binomtest(applied, MANY, getattr(recipe, probability)).pvalue > UNLIKELY


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("flip", "flip"),
        ("color", "color"),
        ("grayscale", "grayscale"),
        ("blur_sigma", "blur"),
        ("solarize", "solarize"),
    ],
)
def test_a_probability_of_zero_is_never_and_of_one_always(choice, name, probability):
    parameters = draw_views(Views(**{f"{name}_probability": probability}), 0, 0, IDS, 0)
    assert np.all(getattr(parameters, choice).astype(bool) == bool(probability))


@pytest.mark.parametrize("operation", COLOR_OPERATIONS[:3])
def test_a_color_factor_is_uniform_around_one_and_not_below_zero(drawn, operation):
    recipe, parameters = drawn
    strength = getattr(recipe, operation) * recipe.color_strength
    factors = parameters.color_factors[:, COLOR_OPERATIONS.index(operation)]
    assert_uniform(factors, max(0.0, 1 - strength), 1 + strength)


def test_the_hue_shift_is_uniform_in_both_directions(drawn):
    recipe, parameters = drawn
    shifts = parameters.color_factors[:, COLOR_OPERATIONS.index("hue")]
    assert_uniform(shifts, -recipe.hue * recipe.color_strength, recipe.hue * recipe.color_strength)


def test_a_strength_of_zero_leaves_the_colors_exactly_as_they_are():
    factors = draw_views(Views(color_strength=0.0), 0, 0, IDS[:100], 0).color_factors
    assert np.all(factors == [1, 1, 1, 0])


def test_all_24_orders_of_the_color_operations_are_equally_likely(drawn):
    _, parameters = drawn
    found, counts = np.unique(parameters.color_order, axis=0, return_counts=True)
    assert {tuple(order) for order in found.tolist()} == set(permutations(range(len(COLOR_OPERATIONS))))
    assert stats.chisquare(counts).pvalue > UNLIKELY


def test_the_blur_is_uniform_between_its_limits_where_there_is_one(drawn):
    recipe, parameters = drawn
    sigma = parameters.blur_sigma[parameters.blur_sigma > 0]
    assert_uniform(sigma, recipe.blur_sigma_min, recipe.blur_sigma_max)


@pytest.mark.parametrize("attempt", range(10))
def test_every_crop_attempt_has_a_uniform_area_and_a_log_uniform_aspect_ratio(drawn, attempt):
    recipe, parameters = drawn
    area, ratio = parameters.crop_attempts[:, attempt].T
    assert_uniform(area, recipe.crop_area_min, recipe.crop_area_max)
    assert_uniform(np.log(ratio), *np.log(ASPECT_RATIOS))


def test_the_place_of_the_crop_is_uniform(drawn):
    _, parameters = drawn
    assert_uniform(parameters.crop_place[:, 0], 0.0, 1.0)
    assert_uniform(parameters.crop_place[:, 1], 0.0, 1.0)


def test_no_choice_follows_from_another():
    parameters = draw_views(Views(solarize_probability=0.5, blur_probability=1.0), 0, 0, IDS, 0)
    # The places in an order exclude each other, so only its first one is compared.
    names = [entry.name for entry in fields(parameters) if entry.name != "color_order"]
    columns = [getattr(parameters, name).reshape(MANY, -1).astype(np.float64) for name in names]
    columns += [parameters.color_order[:, :1].astype(np.float64)]
    correlations = np.corrcoef(np.concatenate(columns, axis=1), rowvar=False)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5 / np.sqrt(MANY)


def test_whether_and_how_much_to_blur_are_drawn_apart():
    # Were both taken from one number, a small probability would leave small sigmas only.
    sigma = draw_views(Views(blur_probability=0.1), 0, 0, IDS, 0).blur_sigma
    assert_uniform(sigma[sigma > 0], Views().blur_sigma_min, Views().blur_sigma_max)


# ---------------------------------------------------------------------------------------------- crop

SHAPES = [(32, 32), (224, 224), (375, 500), (500, 100), (60, 300), (8, 8), (10, 500), (500, 10), (1, 1), (1, 9), (3, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_the_crop_lies_inside_the_image_and_holds_a_pixel(shape):
    height, width = shape
    parameters = draw_views(Views(), 0, 0, IDS[:1000], 0)
    boxes = np.array(
        [crop_box(parameters.crop_attempts[row], parameters.crop_place[row], height, width) for row in range(1000)]
    )
    top, left, tall, wide = boxes.T
    assert top.min() >= 0
    assert left.min() >= 0
    assert min(tall.min(), wide.min()) >= 1
    assert (top + tall).max() <= height
    assert (left + wide).max() <= width


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.3, 0.6), (0.9, 1.0)], ids=str)
@pytest.mark.parametrize("shape", [(224, 224), (375, 500), (60, 300)], ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_the_crop_is_distributed_as_torchvisions(shape, area):
    height, width = shape
    draws = 1500
    parameters = draw_views(Views(crop_area_min=area[0], crop_area_max=area[1]), 0, 0, IDS[:draws], 0)
    ours = np.array(
        [crop_box(parameters.crop_attempts[row], parameters.crop_place[row], height, width) for row in range(draws)]
    )
    image = torch.zeros(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, area, ASPECT_RATIOS) for _ in range(draws)])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > UNLIKELY
    for derived in (lambda box: box[:, 2] * box[:, 3], lambda box: box[:, 3] / box[:, 2]):
        assert stats.ks_2samp(derived(ours), derived(theirs)).pvalue > UNLIKELY
    # Mean and spread too: within five standard errors.
    spread = theirs.std(axis=0)
    assert np.all(np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 5 * spread * np.sqrt(2 / draws) + 1e-9)


@pytest.mark.parametrize(
    "shape",
    [(10, 500), (500, 10), (1, 9), (9, 1), (20, 31), (31, 20)],
    ids=lambda shape: f"{shape[0]}x{shape[1]}",
)
def test_an_image_that_no_attempt_fits_gives_torchvisions_centred_crop(shape):
    height, width = shape
    parameters = draw_views(Views(crop_area_min=1.0, crop_area_max=1.0), 0, 0, IDS[:50], 0)
    # The whole area in a ratio that the image does not have fits nowhere, so torchvision's rule draws nothing either.
    theirs = RandomResizedCrop.get_params(torch.zeros(1, height, width), (1.0, 1.0), ASPECT_RATIOS)
    assert {
        crop_box(parameters.crop_attempts[row], parameters.crop_place[row], height, width) for row in range(50)
    } == {tuple(theirs)}


def test_an_image_of_an_allowed_ratio_that_no_attempt_fits_is_taken_whole():
    parameters = draw_views(Views(), 0, 0, IDS[:1], 0)
    too_large = np.full_like(parameters.crop_attempts, 2.0)
    assert crop_box(too_large[0], parameters.crop_place[0], 60, 70) == (0, 0, 60, 70)


ALMOST_ONE = 1 - 2**-32  # the largest number that is drawn


@pytest.mark.parametrize(
    ("place", "top", "left"),
    [((0.0, 0.0), 0, 0), ((ALMOST_ONE, 0.0), 50, 0), ((0.0, ALMOST_ONE), 0, 50), ((0.5, 0.01), 25, 0)],
)
def test_the_first_attempt_that_fits_is_taken_and_reaches_every_edge(place, top, left):
    parameters = draw_views(Views(), 0, 0, IDS[:1], 0)
    attempts = parameters.crop_attempts.copy()
    attempts[0, :3] = [[2.0, 1.0], [0.25, 1.0], [0.01, 1.0]]
    chosen = replace(parameters, crop_attempts=attempts, crop_place=np.array([place]))
    assert crop_box(chosen.crop_attempts[0], chosen.crop_place[0], 100, 100) == (top, left, 50, 50)


@pytest.mark.parametrize(("side", "kernel"), [(224, 23), (96, 9), (32, 3), (16, 1), (8, 1), (20, 3), (112, 11)])
def test_the_blur_kernel_is_a_tenth_of_the_side_made_odd(side, kernel):
    assert blur_kernel_size(side) == kernel


def test_the_blur_kernel_is_always_odd_and_near_a_tenth():
    for side in range(8, 600):
        kernel = blur_kernel_size(side)
        assert kernel % 2 == 1
        assert abs(kernel - side / 10) <= 1.5
