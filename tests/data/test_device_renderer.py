"""Colours on the device: the reference renderer's bits, whatever stands beside an image; and the affine form."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from simclr_dist.config.views import COLOR_FORMS, Views
from simclr_dist.data.rendering.device_ import bytes_at_once, render_colors
from simclr_dist.data.rendering.torchvision_ import render_view
from simclr_dist.data.views.affine_color import COLOR_OPERATIONS, NEUTRAL_FACTORS, affine_colors, color_matrices
from simclr_dist.data.views.color_choices import ColorChoices, choices_of
from simclr_dist.data.views.draws import ViewParameters, draw_views
from simclr_dist.planning.tracker import StepTracker
from tests.support.images import photo

IMAGES = 60
ORDERS = np.array(list(permutations(range(4))), dtype=np.int8)
GRAY = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)
# The blur is summed in another order than torchvision's: a sum within float32 rounding of a half may fall on its other
# side. The colour operations have no such excuse.
BLUR_SHARE = 1e-4


def photos(images: int, side: int) -> Tensor:
    return torch.stack([photo(side, side, seed) for seed in range(images)])


def drawn(images: int = IMAGES, **recipe: float) -> ViewParameters:
    """Random choices, every operation common; the crop takes a square image whole and does not flip it."""
    common = {"color_probability": 0.9, "grayscale_probability": 0.3, "solarize_probability": 0.3, **recipe}
    return uncropped(draw_views(Views(**common), 0, 0, np.arange(images), 0))


def uncropped(parameters: ViewParameters) -> ViewParameters:
    images = len(parameters.flip)
    return replace(
        parameters,
        crop_attempts=np.ones((images, 10, 2)),
        crop_place=np.zeros((images, 2)),
        flip=np.zeros(images, dtype=bool),
    )


def only(operation: str, images: int = IMAGES) -> ViewParameters:
    """Random choices of one operation for every image; of a colour operation, also at the ends of its range."""
    nothing = {"color": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}
    name = "color" if operation in COLOR_OPERATIONS else operation
    parameters = drawn(images, **{f"{each}_probability": share for each, share in (nothing | {name: 1.0}).items()})
    if operation not in COLOR_OPERATIONS:
        return parameters
    column = COLOR_OPERATIONS.index(operation)
    factors = np.tile(NEUTRAL_FACTORS, (images, 1))
    factors[:, column] = parameters.color_factors[:, column]
    factors[:4, column] = [-0.5, 0.5, -1e-9, 1e-9] if operation == "hue" else [0.0, 2.0, 1 - 1e-9, 1 + 1e-9]
    return replace(parameters, color_factors=factors)


def reference(images: Tensor, parameters: ViewParameters, color_form: str = "exact") -> Tensor:
    side = images.shape[-1]
    return torch.stack([render_view(image, parameters, row, side, color_form) for row, image in enumerate(images)])


def render(images: Tensor, parameters: ViewParameters, color_form: str = "exact", images_at_once: int = 64) -> Tensor:
    """One view of each image."""
    return render_colors(images[:, None], choices_of([parameters]), color_form, images_at_once)[:, 0]


def rows_of(choices: ColorChoices, rows: object) -> ColorChoices:
    return ColorChoices(*(each[rows] for each in choices))


# ---------------------------------------------------------------------------------------------- the reference's bits


@pytest.mark.parametrize("side", [32, 33, 96])
@pytest.mark.parametrize("operation", [*COLOR_OPERATIONS, "grayscale", "solarize"])
def test_an_operation_alone_has_the_references_bits(operation, side):
    images, parameters = photos(IMAGES, side), only(operation)
    rendered = render(images, parameters)
    assert torch.equal(rendered, reference(images, parameters))
    assert not torch.equal(rendered, images)


@pytest.mark.parametrize("side", [32, 96])
def test_the_blur_differs_from_the_reference_by_one_in_almost_no_pixel(side):
    images, parameters = photos(IMAGES, side), only("blur")
    parameters.blur_sigma[:3] = [0.1, 2.0, 30.0]
    difference = (render(images, parameters).int() - reference(images, parameters).int()).abs()
    assert difference.max() <= 1
    assert difference.float().mean() <= BLUR_SHARE
    assert not torch.equal(render(images, parameters), images)


@pytest.mark.parametrize("side", [32, 96])
def test_all_choices_together_give_the_references_views(side):
    images, parameters = photos(IMAGES, side), drawn()
    difference = (render(images, parameters).int() - reference(images, parameters).int()).abs()
    assert difference.float().gt(0).float().mean() <= BLUR_SHARE
    sharp = torch.from_numpy(parameters.blur_sigma == 0)
    assert 0 < sharp.sum() < IMAGES
    assert difference[sharp].max() == 0


def test_every_order_of_the_color_operations_has_the_references_bits():
    images, parameters = photos(len(ORDERS), 32), drawn(len(ORDERS), color_probability=1.0, blur_probability=0.0)
    parameters = replace(parameters, color_order=ORDERS)
    assert torch.equal(render(images, parameters), reference(images, parameters))


@pytest.mark.parametrize(
    "colors", [torch.zeros(3), torch.full((3,), 255), torch.full((3,), 77), torch.tensor([255, 0, 255])], ids=str
)
def test_flat_black_white_gray_and_pure_colors_have_the_references_bits(colors):
    images, parameters = colors.to(torch.uint8)[None, :, None, None].expand(IMAGES, 3, 32, 32), drawn()
    assert torch.equal(render(images, parameters), reference(images, parameters))


def test_an_image_without_choices_is_left_as_it_is():
    parameters = drawn(color_probability=0.0, grayscale_probability=0.0, blur_probability=0.0, solarize_probability=0.0)
    for color_form in COLOR_FORMS:
        assert torch.equal(render(photos(IMAGES, 32), parameters, color_form), photos(IMAGES, 32))


def test_a_view_too_small_for_a_kernel_is_not_blurred():
    assert torch.equal(render(photos(IMAGES, 16), only("blur")), photos(IMAGES, 16))


def test_views_are_rendered_where_they_stand():
    crops = photos(8, 32).view(4, 2, 3, 32, 32)
    parameters = [drawn(4), uncropped(draw_views(Views(), 0, 0, np.arange(4), 1))]
    choices = choices_of(parameters)
    assert {tuple(each.shape[:2]) for each in choices} == {(4, 2)}
    views = render_colors(crops, choices)
    for view in (0, 1):
        assert torch.equal(views[:, view], render(crops[:, view], parameters[view]))


# ---------------------------------------------------------------------------------------------- nothing beside an image


@pytest.mark.parametrize("color_form", COLOR_FORMS)
@pytest.mark.parametrize("side", [17, 33])
def test_an_images_bits_do_not_depend_on_the_batch_around_it(side, color_form):
    images, choices = photos(64, side), rows_of(choices_of([drawn(64)]), (slice(None), 0))
    together = render_colors(images, choices, color_form)
    shuffled = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(render_colors(images[shuffled], rows_of(choices, shuffled), color_form), together[shuffled])
    for row in range(64):
        alone = slice(row, row + 1)
        assert torch.equal(render_colors(images[alone], rows_of(choices, alone), color_form), together[alone])


@pytest.mark.parametrize("color_form", COLOR_FORMS)
def test_the_number_of_images_at_once_does_not_change_a_bit(color_form):
    images, parameters = photos(IMAGES, 33), drawn()
    expected = render(images, parameters, color_form)
    for images_at_once in (1, 7, 1000):
        assert torch.equal(render(images, parameters, color_form, images_at_once), expected)


@pytest.mark.parametrize("color_form", COLOR_FORMS)
def test_crops_may_lie_in_memory_in_any_way_and_stay_as_they_are(color_form):
    images, choices = photos(8, 32), rows_of(choices_of([drawn(8)]), (slice(None), 0))
    expected = render_colors(images, choices, color_form)
    for strange in (images.contiguous(memory_format=torch.channels_last), images.mT.contiguous().mT):
        assert not strange.is_contiguous()
        before = strange.clone()
        assert torch.equal(render_colors(strange, choices, color_form), expected)
        assert torch.equal(strange, before)
    assert torch.equal(images, photos(8, 32))


# ---------------------------------------------------------------------------------------------- machine


@pytest.mark.parametrize("color_form", COLOR_FORMS)
def test_no_value_is_asked_of_the_device(color_form):
    # A tensor on the meta device has no values: .item(), a boolean index or nonzero() on it raises.
    crops = torch.empty(IMAGES, 1, 3, 96, 96, dtype=torch.uint8, device="meta")
    views = render_colors(crops, choices_of([drawn()]), color_form)
    assert (views.shape, views.dtype, views.device.type) == (crops.shape, torch.uint8, "meta")


class CopiesOfRows(TorchDispatchMode):
    """Notes whether torch's deterministic mode is on at each copy into rows."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: set[bool] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten.index_copy_.default:
            assert len(args[2].unique()) == len(args[2])
            self.modes.add(torch.are_deterministic_algorithms_enabled())
        return operation(*args, **(kwargs or {}))


def test_rows_of_their_own_are_copied_without_the_sort_of_deterministic_mode_which_stays_on():
    images, parameters = photos(IMAGES, 8), drawn()
    copies = CopiesOfRows()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with copies:
            render(images, parameters)
        assert copies.modes == {False}
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_the_bound_on_memory_holds_and_is_close():
    parameters = replace(only("hue", 32), color_order=np.tile(np.arange(4, dtype=np.int8), (32, 1)))  # all at once
    crops = torch.empty(32, 1, 3, 96, 96, dtype=torch.uint8, device="meta")
    for images_at_once in (8, 32):
        with StepTracker() as tracker:
            render_colors(crops, choices_of([parameters]), "exact", images_at_once)
        beside = tracker.peak - 2 * crops.numel()  # the crops and the result
        assert 0.8 < beside / bytes_at_once(96, images_at_once) < 1


def test_choices_come_through_a_data_loaders_worker_as_they_are():
    expected = choices_of([drawn(3), drawn(3)])
    (received,) = DataLoader([expected], batch_size=None, num_workers=1, multiprocessing_context="fork")
    assert type(received) is ColorChoices
    assert all(torch.equal(one, other) for one, other in zip(received, expected, strict=True))


# ---------------------------------------------------------------------------------------------- the affine form


def composed(pixels: Tensor, parameters: ViewParameters, row: int) -> Tensor:
    """The definition, operation by operation: float64 (3, h, w), neither clamped nor rounded."""
    colors = pixels.double()
    for index in parameters.color_order[row]:
        factor = float(parameters.color_factors[row, index])
        gray = torch.einsum("c,chw->hw", GRAY, colors)
        if COLOR_OPERATIONS[index] == "brightness":
            colors = factor * colors
        elif COLOR_OPERATIONS[index] == "contrast":
            colors = factor * colors + (1 - factor) * gray.mean()
        elif COLOR_OPERATIONS[index] == "saturation":
            colors = factor * colors + (1 - factor) * gray
        else:
            # Rodrigues' rotation around (1, 1, 1) / sqrt 3.
            cos, sin = np.cos(2 * np.pi * factor), np.sin(2 * np.pi * factor)
            across = torch.stack([colors[2] - colors[1], colors[0] - colors[2], colors[1] - colors[0]]) / 3**0.5
            colors = cos * colors + sin * across + (1 - cos) * colors.mean(dim=0)
    return colors


def times(matrix: Tensor, pixels: Tensor) -> Tensor:
    return torch.einsum("rc,chw->rhw", matrix[:, :3], pixels.double()) + matrix[:, 3, None, None]


def mixes(parameters: ViewParameters) -> Tensor:
    return torch.from_numpy(parameters.color_mixes)


def test_the_matrix_is_the_composition_of_the_operations_in_every_order():
    images, parameters = photos(len(ORDERS), 32), drawn(len(ORDERS), color_probability=1.0)
    parameters = replace(parameters, color_order=ORDERS)
    matrices = color_matrices(mixes(parameters), images.double().mean(dim=(2, 3)))
    assert matrices.shape == (len(ORDERS), 3, 4)
    for row, image in enumerate(images):
        expected = composed(image, parameters, row)
        torch.testing.assert_close(times(matrices[row], image), expected, rtol=0, atol=1e-9)


def test_affine_colors_are_the_composition_clamped_and_rounded_once():
    images, parameters = photos(IMAGES, 33), drawn(color_probability=1.0)
    mixed = affine_colors(images, mixes(parameters))
    for row, image in enumerate(images):
        expected = composed(image, parameters, row).clamp(0, 255)
        assert (mixed[row] - expected).abs().max() < 0.5 + 1e-3
    assert mixed.min() == 0
    assert mixed.max() == 255


def test_neutral_factors_are_the_identity_to_the_bit_in_every_order():
    parameters = replace(
        drawn(len(ORDERS), color_probability=1.0),
        color_order=ORDERS,
        color_factors=np.tile(NEUTRAL_FACTORS, (len(ORDERS), 1)),
    )
    assert torch.equal(affine_colors(photos(24, 32), mixes(parameters)), photos(24, 32))


def with_hue(turns: list[float]) -> ViewParameters:
    factors = np.tile(NEUTRAL_FACTORS, (len(turns), 1))
    factors[:, 3] = turns
    return replace(drawn(len(turns), color_probability=1.0), color_factors=factors)


def test_a_whole_turn_of_the_hue_is_the_identity_to_the_bit():
    assert torch.equal(affine_colors(photos(3, 32), mixes(with_hue([1.0, -1.0, 2.0]))), photos(3, 32))


def test_hue_turns_add_up_and_keep_the_lightness_of_every_pixel():
    some, more, both = mixes(with_hue([0.1, 0.25, 0.35]))[:, :, :3]
    torch.testing.assert_close(more @ some, both)
    torch.testing.assert_close(torch.ones(3).double() @ both, torch.ones(3).double())
    torch.testing.assert_close(both @ torch.ones(3).double(), torch.ones(3).double())


def test_a_third_of_a_turn_makes_red_green_and_back_makes_it_blue():
    red, green, blue = torch.eye(3).double()
    forth, back = mixes(with_hue([1 / 3, -1 / 3]))[:, :, :3] @ red
    torch.testing.assert_close(forth, green)
    torch.testing.assert_close(back, blue)


def test_contrast_keeps_the_mean_gray_of_a_gray_image():
    factors = np.tile(NEUTRAL_FACTORS, (2, 1))
    factors[:, 1] = [0.0, 1.9]
    parameters = replace(drawn(2, color_probability=1.0), color_factors=factors)
    mean = torch.full((2, 3), 100.0, dtype=torch.float64)
    matrices = color_matrices(mixes(parameters), mean)
    after = (matrices[:, :, :3] @ mean[..., None])[..., 0] + matrices[:, :, 3]
    torch.testing.assert_close(after, mean, rtol=2e-4, atol=0)  # torchvision's weights of gray add up to 0.9999


def test_colors_left_alone_are_not_mixed():
    identity = torch.cat((torch.eye(3), torch.zeros(3, 3)), dim=1).double().expand(IMAGES, 3, 6)
    assert torch.equal(mixes(drawn(color_probability=0.0)), identity)


@pytest.mark.parametrize("side", [32, 33])
def test_the_reference_and_the_device_have_the_same_bits_in_the_affine_form(side):
    images, parameters = photos(IMAGES, side), drawn(blur_probability=0.0)
    views = render(images, parameters, "affine")
    assert torch.equal(views, reference(images, parameters, "affine"))
    assert not torch.equal(views, reference(images, parameters, "exact"))


@pytest.mark.parametrize(("operation", "bound"), [("brightness", 0.5), ("contrast", 0.6), ("saturation", 0.6)])
def test_one_affine_operation_differs_from_the_exact_one_by_rounding(operation, bound):
    images, parameters = photos(IMAGES, 96), only(operation)
    difference = (render(images, parameters, "affine").int() - render(images, parameters, "exact").int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < bound
