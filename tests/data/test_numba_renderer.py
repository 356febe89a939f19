"""The numba renderer makes the reference renderer's pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr_dist.config.views import INTERPOLATIONS, Views
from simclr_dist.data.rendering import numba_, torchvision_
from simclr_dist.data.rendering.kernels import SOURCES, blur, colors, digest_of, filters, geometry
from simclr_dist.data.views.draws import ViewParameters, draw_views
from tests.support.images import photo
from tests.support.views import parameters

IMAGES = 200
# Sides of the image and of the view: CIFAR, STL10, ImageNet.
SIZES = [(32, 32), (96, 96), (256, 224)]
FEW = 40
"""Images with sides of more than 100 pixels: two million pixels of a view's size."""
OPERATIONS = {
    "brightness": (0, (0.4, 1.6)),
    "contrast": (1, (0.4, 1.6)),
    "saturation": (2, (0.4, 1.6)),
    "hue": (3, (-0.2, 0.2)),
}


def drawn(view: int = 0, **changes: float) -> ViewParameters:
    return draw_views(Views(**{"solarize_probability": 0.2, **changes}), 0, 0, np.arange(IMAGES), view)


def count_of(side: int) -> int:
    return IMAGES if side <= 100 else FEW


def photos(side: int) -> list[Tensor]:
    return [photo(side, side, seed) for seed in range(20)]


def differences(ours: list[Tensor], reference: list[Tensor]) -> tuple[int, float, float]:
    """(largest, mean, share of pixels) of the differences, in 1/255."""
    gap = (torch.stack(ours).int() - torch.stack(reference).int()).abs()
    return int(gap.max()), float(gap.double().mean()), float((gap > 0).double().mean())


@pytest.mark.parametrize(("image_side", "side"), SIZES)
def test_views_are_the_references_but_for_one_in_255_in_one_of_10000_pixels(image_side, side):
    choices, images, rows = drawn(), photos(image_side), range(count_of(side))
    ours = [numba_.render_view(images[row % 20], choices, row, side) for row in rows]
    theirs = [torchvision_.render_view(images[row % 20], choices, row, side) for row in rows]
    largest, _, share = differences(ours, theirs)
    assert largest <= 1
    assert share < 1e-4


@pytest.mark.parametrize(("image_side", "side"), SIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_crop_resize_and_flip_are_the_references_to_the_bit(image_side, side, interpolation):
    choices, images = drawn(), photos(image_side)
    for row in range(count_of(side)):
        ours = numba_.render_crop(images[row % 20], choices, row, side, interpolation)
        assert torch.equal(ours, torchvision_.render_crop(images[row % 20], choices, row, side, interpolation))


@pytest.mark.parametrize("shape", [(1, 1), (1, 70), (300, 2), (500, 37), (11, 640), (64, 64)])
@pytest.mark.parametrize("side", [8, 31, 64])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_boxes_of_any_shape_grow_and_shrink_as_torchvision_resizes_them(shape, side, interpolation):
    image = photo(*shape)
    choices = drawn()
    for row in range(20):
        ours = numba_.render_crop(image, choices, row, side, interpolation)
        assert torch.equal(ours, torchvision_.render_crop(image, choices, row, side, interpolation))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_width_is_resized_as_torchvision_does_it_also_where_all_edges_are_of_black_and_white(interpolation):
    generator = torch.Generator().manual_seed(0)
    for side in (8, 33, 96):
        for width in range(1, 330):
            image = 255 * torch.randint(0, 2, (3, 5, width), generator=generator, dtype=torch.uint8)
            ours = np.empty((3, side, side), np.uint8)
            box = (0, 0, 5, width)
            geometry.crop_and_resize(interleaved(image), *box, False, interpolation == "bicubic", ours)
            assert np.array_equal(ours, torchvision_.resize(image, side, interpolation).numpy())


def interleaved(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()


def test_a_view_has_its_crops_interpolation_and_is_bilinear_unless_told_otherwise():
    image, choices = photos(96)[0], parameters()
    sides = {each: numba_.render_view(image, choices, 0, 64, interpolation=each) for each in INTERPOLATIONS}
    for each, view in sides.items():
        assert torch.equal(view, torchvision_.render_view(image, choices, 0, 64, interpolation=each))
    assert torch.equal(sides["bilinear"], numba_.render_view(image, choices, 0, 64))
    assert not torch.equal(sides["bilinear"], sides["bicubic"])


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("side", [32, 96, 224])
def test_each_color_operation_is_the_references_to_the_bit(operation, side):
    index, (low, high) = OPERATIONS[operation]
    for seed, factor in enumerate(np.linspace(low, high, count_of(side))):
        factors = [1.0, 1.0, 1.0, 0.0]
        factors[index] = float(factor)
        choices = parameters(color=True, factors=tuple(factors))
        image = photo(side, side, seed)
        ours = numba_.render_view(image, choices, 0, side)
        assert torch.equal(ours, torchvision_.render_view(image, choices, 0, side))


@pytest.mark.parametrize(
    "factors", [(0.0, 1, 1, 0), (1, 0.0, 1, 0), (1, 1, 0.0, 0), (1, 1, 1, 0.5), (1, 1, 1, -0.5), (2, 2, 2, 0)]
)
def test_the_ends_of_the_ranges_are_the_references_on_every_color(factors):
    """All 4,096 colours with channels in steps of 17, black, white and grays among them."""
    levels = torch.arange(0, 256, 17, dtype=torch.uint8)
    image = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 64, 64).contiguous()
    choices = parameters(color=True, factors=factors)
    ours = numba_.render_view(image, choices, 0, 64)
    assert torch.equal(ours, torchvision_.render_view(image, choices, 0, 64))


@pytest.mark.parametrize("change", [{"grayscale": True}, {"solarize": True}, {"flip": True}])
def test_grayscale_solarize_and_flip_are_the_references_to_the_bit(change):
    for seed in range(20):
        image, choices = photo(96, 96, seed), parameters(**change)
        ours = numba_.render_view(image, choices, 0, 96)
        assert torch.equal(ours, torchvision_.render_view(image, choices, 0, 96))
        assert not torch.equal(ours, image)


@pytest.mark.parametrize("side", [20, 32, 96, 224])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_the_blur_differs_from_the_references_only_where_a_pixel_is_halfway_between_two_numbers(side, sigma):
    choices = parameters(sigma=sigma)
    images = photos(side)
    ours = [numba_.render_view(image, choices, 0, side) for image in images]
    theirs = [torchvision_.render_view(image, choices, 0, side) for image in images]
    largest, _, share = differences(ours, theirs)
    assert largest <= 1
    assert share < 1e-3


def test_the_layout_of_an_image_in_memory_changes_nothing_and_the_image_is_left_as_it_was():
    choices = drawn()
    for row in range(20):
        image = photo(70, 50, row)
        interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        before = image.clone()
        assert torch.equal(
            numba_.render_view(image, choices, row, 32),
            numba_.render_view(interleaved, choices, row, 32),
        )
        assert torch.equal(image, before)


def test_what_numba_keeps_on_disk_is_named_after_every_source(tmp_path):
    changed = tmp_path / "changed.py"
    for source in SOURCES:
        changed.write_bytes(source.read_bytes() + b"\n")
        assert digest_of([changed if other == source else other for other in SOURCES]) != digest_of(SOURCES)
    for function in (numba_._crop, numba_._color, filters.weights_of, colors.adjust_hue, blur.gaussian_blur):
        assert function.py_func.__qualname__.endswith(digest_of(SOURCES))
