"""The reference renderer: each operation is torchvision's, applied in SimCLR's order."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr_dist.config.views import INTERPOLATIONS, Views
from simclr_dist.data.rendering.torchvision_ import render_plain, render_view
from simclr_dist.data.views.affine_color import COLOR_OPERATIONS
from simclr_dist.data.views.draws import draw_views
from simclr_dist.data.views.geometry import blur_kernel_size, crop_box
from tests.support.images import photo
from tests.support.views import parameters

SIDE = 32
ORDERS = list(permutations(range(4)))
FACTORS = (1.4, 0.6, 1.7, -0.13)
ADJUST = {
    "brightness": tv.adjust_brightness,
    "contrast": tv.adjust_contrast,
    "saturation": tv.adjust_saturation,
    "hue": tv.adjust_hue,
}


def resized(image: Tensor, interpolation: str = "bilinear") -> Tensor:
    return tv.resize(image, [SIDE, SIDE], InterpolationMode(interpolation), antialias=True)


def one_factor(operation: str) -> tuple[float, ...]:
    return tuple(
        f if name == operation else (0.0 if name == "hue" else 1.0) for name, f in zip(ADJUST, FACTORS, strict=True)
    )


def test_a_view_with_everything_off_is_the_resized_image():
    assert torch.equal(render_view(photo(), parameters(), 0, SIDE), resized(photo()))


@pytest.mark.parametrize("operation", COLOR_OPERATIONS)
def test_a_color_operation_alone_is_torchvisions(operation):
    view = render_view(photo(), parameters(color=True, factors=one_factor(operation)), 0, SIDE)
    factor = FACTORS[COLOR_OPERATIONS.index(operation)]
    assert torch.equal(view, ADJUST[operation](resized(photo()), factor))
    assert not torch.equal(view, resized(photo()))


@pytest.mark.parametrize(
    ("choice", "operation"),
    [
        ({"flip": True}, tv.horizontal_flip),
        ({"grayscale": True}, lambda x: tv.rgb_to_grayscale(x, 3)),
        ({"solarize": True}, lambda x: tv.solarize(x, 128)),
        *(
            ({"sigma": sigma}, lambda x, sigma=sigma: tv.gaussian_blur(x, [3, 3], [sigma, sigma]))
            for sigma in (0.1, 1.0, 2.0)
        ),
    ],
    ids=["flip", "grayscale", "solarize", "little blur", "blur", "strong blur"],
)
def test_an_operation_alone_is_torchvisions(choice, operation):
    assert torch.equal(render_view(photo(), parameters(**choice), 0, SIDE), operation(resized(photo())))


@pytest.mark.parametrize("choice", [{"flip": True}, {"grayscale": True}, {"solarize": True}, {"sigma": 2.0}], ids=str)
def test_an_operation_changes_the_image(choice):
    assert not torch.equal(render_view(photo(), parameters(**choice), 0, SIDE), resized(photo()))


@pytest.mark.parametrize("side", [64, 224])
def test_the_blur_has_the_kernel_of_the_side_of_the_view(side):
    view = render_view(photo(), parameters(sigma=2.0), 0, side)
    kernel = blur_kernel_size(side)
    assert torch.equal(
        view, tv.gaussian_blur(tv.resize(photo(), [side, side], antialias=True), [kernel, kernel], [2.0])
    )


def test_a_view_too_small_for_a_kernel_is_not_blurred():
    assert torch.equal(render_view(photo(), parameters(sigma=2.0), 0, 16), render_view(photo(), parameters(), 0, 16))


def test_solarize_inverts_the_pixels_from_128_on():
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    view = render_view(ramp, parameters(solarize=True), 0, 16).flatten().tolist()[:256]
    assert view == [value if value < 128 else 255 - value for value in range(256)]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: " ".join(COLOR_OPERATIONS[index][0] for index in order))
def test_the_color_operations_are_applied_in_the_order_drawn(order):
    expected = resized(photo())
    for index in order:
        expected = ADJUST[COLOR_OPERATIONS[index]](expected, FACTORS[index])
    assert torch.equal(render_view(photo(), parameters(color=True, order=order, factors=FACTORS), 0, SIDE), expected)


def test_the_order_of_the_color_operations_matters():
    views = [render_view(photo(), parameters(color=True, order=order, factors=FACTORS), 0, SIDE) for order in ORDERS]
    assert len({view.numpy().tobytes() for view in views}) > len(ORDERS) // 2


def test_factors_are_not_applied_when_the_colors_are_left_alone():
    assert torch.equal(render_view(photo(), parameters(color=False, factors=FACTORS), 0, SIDE), resized(photo()))


def test_neutral_factors_change_nothing_to_the_bit():
    assert torch.equal(render_view(photo(), parameters(color=True), 0, SIDE), resized(photo()))


def test_all_operations_together_come_in_simclrs_order():
    everything = parameters(
        flip=True, color=True, order=(3, 1, 0, 2), factors=FACTORS, grayscale=True, sigma=1.3, solarize=True
    )
    expected = tv.horizontal_flip(resized(photo()))
    for index in (3, 1, 0, 2):
        expected = ADJUST[COLOR_OPERATIONS[index]](expected, FACTORS[index])
    expected = tv.rgb_to_grayscale(expected, 3)
    expected = tv.solarize(tv.gaussian_blur(expected, [3, 3], [1.3]), 128)
    assert torch.equal(render_view(photo(), everything, 0, SIDE), expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_the_crop_of_the_parameters_is_cut_before_it_is_resized(interpolation):
    image, drawn = photo(70, 90), draw_views(_only_crops(), 0, 0, np.arange(20), 0)
    for row in range(20):
        top, left, height, width = crop_box(drawn.crop_attempts[row], drawn.crop_place[row], 70, 90)
        expected = resized(image[:, top : top + height, left : left + width], interpolation)
        assert torch.equal(render_view(image, drawn, row, SIDE, interpolation=interpolation), expected)


def _only_crops() -> Views:
    off = ("flip", "color", "grayscale", "blur", "solarize")
    return Views(**{f"{name}_probability": 0.0 for name in off})


@pytest.mark.parametrize("size", [(48, 48), (1, 1), (1, 40), (40, 1), (300, 20), (7, 500)], ids=str)
@pytest.mark.parametrize("side", [8, 33])
def test_every_image_size_gives_views_of_the_asked_shape_and_type(size, side):
    drawn = draw_views(Views(solarize_probability=0.5), 0, 0, np.arange(8), 0)
    for row in range(8):
        view = render_view(photo(*size), drawn, row, side)
        assert (view.shape, view.dtype) == ((3, side, side), torch.uint8)
    assert render_plain(photo(*size), side).shape == (3, side, side)


def test_rendering_leaves_the_image_as_it_was():
    image, drawn = photo(), draw_views(Views(color_probability=1.0, solarize_probability=1.0), 0, 0, np.arange(4), 0)
    before = image.clone()
    for row in range(4):
        render_view(image, drawn, row, image.shape[1])
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("size", "centre"),
    [
        ((48, 48), (slice(0, 48), slice(0, 48))),
        ((48, 60), (slice(0, 48), slice(6, 54))),
        ((60, 48), (slice(6, 54), slice(0, 48))),
        ((48, 51), (slice(0, 48), slice(1, 49))),
        ((48, 500), (slice(0, 48), slice(226, 274))),
    ],
    ids=["square", "wide", "tall", "odd rest", "very wide"],
)
def test_the_plain_image_is_its_largest_centred_square_resized(size, centre):
    image = photo(*size)
    assert torch.equal(render_plain(image, SIDE), resized(image[:, centre[0], centre[1]]))
    assert torch.equal(render_plain(image, 48), image[:, centre[0], centre[1]])
