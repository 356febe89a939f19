"""The views of each method are those that it was published with, view by view."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from simclr_dist.config import load_config
from simclr_dist.config.registry import method_class, method_keys
from simclr_dist.config.views import ViewGroup
from simclr_dist.data.views.groups import draw_groups

IMAGES = 4000


def view(
    crop_areas: tuple[float, float],
    jitter: tuple[float, float, float, float],
    blur_probability: float,
    **more: float | str,
) -> ViewGroup:
    """``jitter``: of brightness, contrast, saturation and hue. The rest is alike in all of the papers."""
    names = ("brightness", "contrast", "saturation", "hue")
    alike = {"flip_probability": 0.5, "color_strength": 1.0, "grayscale_probability": 0.2, "color_form": "exact"}
    sigmas = {"blur_sigma_min": 0.1, "blur_sigma_max": 2.0}
    usual = {"color_probability": 0.8, "solarize_probability": 0.0, "interpolation": "bilinear", "size": 0, "count": 2}
    return ViewGroup(
        crop_area_min=crop_areas[0], crop_area_max=crop_areas[1], blur_probability=blur_probability,
        **dict(zip(names, jitter, strict=True)), **alike, **sigmas, **(usual | more),
    )  # fmt: skip


SIMCLR = (0.8, 0.8, 0.8, 0.2)
MOCO = {"global": view((0.2, 1), (0.4, 0.4, 0.4, 0.1), 0.5)}
BYOL = {
    "first": view((0.08, 1), (0.4, 0.4, 0.2, 0.1), 1.0, count=1, interpolation="bicubic"),
    "second": view((0.08, 1), (0.4, 0.4, 0.2, 0.1), 0.1, solarize_probability=0.2, count=1, interpolation="bicubic"),
}
DINO = {name: replace(each, crop_area_min=0.14) for name, each in BYOL.items()}
PUBLISHED = {
    "simclr": {"global": view((0.08, 1), SIMCLR, 0.5)},
    "moco": MOCO,
    "simsiam": MOCO,
    "supcon": {"global": view((0.2, 1), (0.4, 0.4, 0.4, 0.1), 0.0)},
    "byol": BYOL,
    "barlow_twins": BYOL,
    "vicreg": BYOL,
    "moco_v3": {name: replace(each, crop_area_min=0.2, interpolation="bilinear") for name, each in BYOL.items()},
    "dino": DINO | {"small": view((0.05, 0.14), (0.4, 0.4, 0.2, 0.1), 0.5, count=8, size=96, interpolation="bicubic")},
    "memory_bank": {"global": view((0.2, 1), (0.4, 0.4, 0.4, 0.4), 0.0, color_probability=1.0, count=1)},
    "swav": {
        "global": view((0.14, 1), SIMCLR, 0.5),
        "small": view((0.05, 0.14), SIMCLR, 0.5, count=6, size=96),
    },
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_a_methods_views_are_drawn_and_resized_as_in_its_paper(method):
    assert method_class(method).views(method_keys(method)) == PUBLISHED[method]


def test_byols_first_view_is_always_blurred_and_never_solarized_and_its_second_one_has_shares_of_its_own():
    first, second = (group.parameters[0] for group in drawn())
    assert first.blur_sigma.all()
    assert not first.solarize.any()
    assert stats.binomtest(int(np.count_nonzero(second.blur_sigma)), IMAGES, 0.1).pvalue > 1e-4
    assert stats.binomtest(int(second.solarize.sum()), IMAGES, 0.2).pvalue > 1e-4


def test_a_probability_of_one_view_leaves_the_other_as_it_is():
    before = {group.name: group.parameters[0] for group in drawn()}
    after = {group.name: group.parameters[0] for group in drawn("recipe.views.second.flip_probability=1")}
    assert np.array_equal(before["first"].flip, after["first"].flip)
    assert after["second"].flip.all()
    assert np.array_equal(before["second"].crop_place, after["second"].crop_place)  # nor anything else of its own


def drawn(*overrides: str):
    """Without the demo's own keys of views, which are for digits."""
    recipe = load_config("imagenet_resnet50_100", ["recipe.method.name=byol", *overrides]).recipe
    return draw_groups(recipe, 0, np.arange(IMAGES))
