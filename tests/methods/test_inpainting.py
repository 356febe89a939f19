"""Inpainting: hole, band and weights as the context encoder's code has them (tests/golden/README.md)."""

from pathlib import Path

import pytest
import torch

from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.order import build_order
from simclr_dist.methods.build import build_method
from simclr_dist.methods.inpainting import Inpainting, band_of, band_weights, decoder, hole_of, masked, middle
from simclr_dist.methods.parts import Parts
from tests.support.golden import golden, tensor
from tests.support.images import open_source
from tests.support.methods import method_config

RECORD = golden("pretext")["inpainting"]
SIDE, OVERLAP = RECORD["fine_size"], RECORD["overlap"]


def test_hole_and_fill_are_the_published_ones():
    assert hole_of(SIDE) == RECORD["hole"]
    assert band_of(SIDE, Inpainting.Config(name="inpainting")) == OVERLAP
    assert middle(SIDE).start == RECORD["hole_first_row_in_128"]
    views = torch.randint(0, 256, (2, 1, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = masked(views, OVERLAP)
    changed = (found != views).any(2)[0, 0].any(1).nonzero()
    assert [int(changed.min()), int(changed.max())] == RECORD["masked_rows_first_and_last"]
    torch.testing.assert_close(found[1, 0, :, SIDE // 2, SIDE // 2].double() / 127.5 - 1, tensor(RECORD["fill_rgb"]))
    assert (found != views).any(2).sum() <= 2 * (RECORD["hole"] - 2 * OVERLAP) ** 2


def test_the_weights_of_the_errors_are_those_of_the_published_gradient():
    weights = RECORD["l2_weight"] * band_weights(RECORD["hole"], OVERLAP, RECORD["overlap_l2_factor"])
    for found, name in (
        (weights.sum(), "sum"), (weights[0, 0], "corner"), (weights[32, 32], "centre"), (weights[8].sum(), "row_8")
    ):  # fmt: skip
        assert float(found) == pytest.approx(RECORD[f"gradient_weight_{name}"], rel=1e-12)


def built(folder: Path, *overrides: str):
    config = method_config("inpainting", folder, *overrides)
    source = open_source(config.recipe.data)
    batch = build_batches(config, source, build_order(config.recipe, len(source)), 0, 1)[0]
    method = build_method(config.recipe, len(source)).double()
    assert method.band == 1
    return method, batch


def test_the_network_does_not_see_what_it_must_tell(tmp_path):
    method, batch = built(tmp_path)
    other = method.prepare(batch)
    hole = middle(8, method.band)
    batch.views["global"][..., hole, hole] = 255 - batch.views["global"][..., hole, hole]
    prepared = method.prepare(batch)
    with torch.no_grad():
        assert torch.equal(method.embed(prepared)["middle"], method.embed(other)["middle"])
    assert not torch.equal(method.targets(prepared)["middle"], prepared.views["masked"][:, 0, :, middle(8), middle(8)])


def test_the_figures_are_of_what_is_hidden_alone(tmp_path):
    method, batch = built(tmp_path)
    targets = method.targets(method.prepare(batch))
    wrong = {"middle": targets["middle"].clone()}
    wrong["middle"][..., 1:-1, 1:-1] += 0.2  # of -1..1: a tenth of the largest pixel
    found = method.loss(wrong, targets, batch)
    assert float(found["hole_error"]) == pytest.approx(0.1)
    assert float(found["hole_psnr"]) == pytest.approx(20)
    wrong["middle"][..., 0, :] += 0.5
    assert float(method.loss(wrong, targets, batch)["hole_psnr"]) == pytest.approx(20)
    assert float(method.loss(wrong, targets, batch)["loss"]) > float(found["loss"])


@pytest.mark.parametrize("hole", [4, 14, 16, 51, 64, 113])
def test_a_decoder_makes_a_middle_of_any_side_from_a_small_map(hole, tmp_path):
    made = decoder(10, 16, hole, Parts(method_config("inpainting", tmp_path).recipe))
    assert made[0].out_features <= 16 * 8 * 8  # channels and places
    pixels = made(torch.randn(4, 10))
    assert pixels.shape == (4, 3, hole, hole)
    assert float(pixels.abs().max()) <= 1
