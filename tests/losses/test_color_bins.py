"""Colours as classes against richzhang/colorization's numbers (tests/golden/README.md), and CIELAB against skimage."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from skimage.color import rgb2lab

from simclr_dist.losses.color_bins import (
    GRID,
    annealed_mean,
    bin_centres,
    is_colored,
    rebalancing_weights,
    soft_encoding,
)
from simclr_dist.models.lab import lab_of, rgb_of
from tests.support.golden import golden, tensor

RECORD = golden("pretext")["colorization"]
EXACT = 1e-12


def test_the_bins_are_the_313_published_in_their_order():
    assert torch.equal(bin_centres(), tensor(RECORD["bin_centres"]))


def test_the_bins_are_the_corners_of_the_cells_that_meet_the_hull_of_what_srgb_shows():
    """A corner's four cells meet the hull where it lies in the hull grown by a square of a cell in each direction."""
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    lines = [a + t * (b - a) for a, b in itertools.combinations(corners, 2) for t in np.linspace(0, 1, 256)]
    shown = rgb2lab(np.array(lines)[:, None])[:, 0, 1:]
    hull = ConvexHull(np.concatenate([shown + shift for shift in itertools.product((-GRID, GRID), repeat=2)])).equations
    axis = range(-150, 151, GRID)
    inside = [each for each in itertools.product(axis, axis) if (hull[:, :2] @ each + hull[:, 2] <= 0).all()]
    assert torch.equal(bin_centres(), tensor(inside))


@pytest.mark.parametrize("neighbours", [5, 10])
def test_a_colour_is_shared_out_to_its_nearest_bins_as_published(neighbours):
    expected = RECORD["soft_encoding"][str(neighbours)]
    found = soft_encoding(tensor(RECORD["ab"]), bin_centres(), neighbours, RECORD["sigma"])
    order = found.bins.argsort(-1)
    assert found.bins.gather(-1, order).tolist() == expected["bins"]
    torch.testing.assert_close(found.shares.gather(-1, order), tensor(expected["weights"]), rtol=0, atol=EXACT)
    decoded = (found.shares[..., None] * bin_centres()[found.bins]).sum(1)
    torch.testing.assert_close(decoded, tensor(expected["decoded_mean_ab"]), rtol=EXACT, atol=0)


@pytest.mark.parametrize("uniform_share", [0.0, 0.5, 1.0])
def test_rare_colours_weigh_as_published_and_1_in_the_mean(uniform_share):
    prior = tensor(RECORD["prior"])
    found = rebalancing_weights(prior, uniform_share)
    expected = tensor(RECORD["rebalancing"]["weights_by_gamma"][str(uniform_share)])
    torch.testing.assert_close(found, expected, rtol=EXACT, atol=0)
    assert float((prior * found).sum()) == pytest.approx(RECORD["rebalancing"]["expectation_under_prior"], rel=EXACT)


def test_the_annealed_mean_is_the_published_formulas_whatever_constant_the_logarithms_have():
    record = RECORD["annealed_mean"]
    chances = tensor(record["probabilities"]).log() + 7
    found = annealed_mean(chances, bin_centres(), record["temperature"])
    torch.testing.assert_close(found, tensor(record["ab"]), rtol=EXACT, atol=0)


def test_lab_is_scikit_images_and_comes_back():
    pixels = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pixels[:, :, 0, :4] = torch.tensor([0.0, 0.02, 0.04, 1.0])
    expected = torch.from_numpy(rgb2lab(pixels.movedim(1, -1).numpy())).movedim(-1, 1)
    torch.testing.assert_close(lab_of(pixels), expected, rtol=0, atol=1e-3)  # theirs has the rounded constants of 1976
    torch.testing.assert_close(rgb_of(lab_of(pixels)), pixels, rtol=0, atol=1e-12)


def test_an_image_is_coloured_from_one_pixel_above_the_threshold_on():
    grey = torch.full((3, 3, 4, 4), 0.5)
    grey[1, 0, 2, 2] = 0.9  # a is 44
    grey[2, 0, 2, 2] = 0.505
    assert is_colored(lab_of(grey)).tolist() == [False, True, False]
