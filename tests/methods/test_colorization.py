"""Colorization and split-brain: what the network may see, what grey images do, how rare colours are counted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from simclr_dist.data.loading.batch import Batch
from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.order import build_order
from simclr_dist.data.preview import contact_sheet
from simclr_dist.data.sources.named import open_for_pretraining
from simclr_dist.errors import UserError
from simclr_dist.losses.color_bins import bin_centres, rebalancing_weights
from simclr_dist.methods.build import build_method
from simclr_dist.models.lab import lab_of, rgb_of
from simclr_dist.weights.architecture import Architecture
from simclr_dist.weights.export import export
from simclr_dist.weights.loaded import LoadedEncoder
from simclr_dist.weights.read import load_encoder
from tests.support.images import open_source
from tests.support.methods import method_config


def built(name: str, folder: Path, *overrides: str):
    config = method_config(name, folder, *overrides)
    source = open_source(config.recipe.data)
    method = build_method(config.recipe, len(source)).double()
    return config, method, build_batches(config, source, build_order(config.recipe, len(source)), 0, 1)[0]


def recolored(batch: Batch) -> Batch:
    """The same lightness up to rounding to bytes, in other colours."""
    lab = lab_of(batch.views["global"].double() / 255)
    lab[..., 1:, :, :] *= -0.2
    views = (rgb_of(lab) * 255).round().byte()
    return Batch(views={"global": views}, samples=batch.samples, epoch=0, seed=0)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_the_encoder_of_colorization_sees_the_lightness_alone(tmp_path):
    _, method, batch = built("colorization", tmp_path)
    method.eval()
    views = batch.views["global"][:, 0]
    features, again = (method.encoder(each) for each in (views, recolored(batch).views["global"][:, 0]))
    assert difference(again, features) < 0.02  # bytes are rounded


def test_each_half_of_split_brain_sees_its_part_and_the_features_are_both(tmp_path):
    _, method, batch = built("split_brain", tmp_path)
    method.eval()
    views, other = batch.views["global"][:, 0], recolored(batch).views["global"][:, 0]
    features, again = method.encoder(views), method.encoder(other)
    half = method.dims[0]
    assert features.shape[1] == sum(method.dims)
    assert difference(again[:, :half], features[:, :half]) < 0.02
    assert difference(again[:, half:], features[:, half:]) > 0.1


def test_the_two_halves_together_have_the_features_of_one_whole_and_half_of_its_weights(tmp_path):
    whole, halves = (built(name, tmp_path)[1].encoder for name in ("simclr", "split_brain"))
    assert halves.output_dim == whole.output_dim
    ratio = sum(p.numel() for p in halves.parameters()) / sum(p.numel() for p in whole.parameters())
    assert 0.45 < ratio < 0.55


def test_grey_images_count_nowhere(tmp_path):
    _, method, batch = built("colorization", tmp_path)
    with torch.no_grad():
        targets = method.targets(batch)
        embeddings = method.embed(batch)
        grey = targets["colored"] == 0
        assert 0 < int(grey.sum()) < len(batch)
        before = method.loss(embeddings, targets, batch)
        embeddings["logits"][grey] = 100 * torch.randn_like(embeddings["logits"][grey])
        after = method.loss(embeddings, targets, batch)
        assert {name: float(each) for name, each in before.items()} == {
            name: float(each) for name, each in after.items()
        }
        assert float(before["colored_images"]) == pytest.approx(1 - float(grey.double().mean()))
        counts = method.color_counts.clone()
        method.after_update(embeddings, targets, batch, 0, 1)
    cells = targets["weights"].shape[1]
    counted = (method.color_counts - counts).sum() / counts[0]
    assert float(counted) == pytest.approx(float((~grey).sum()) * cells, rel=1e-3)


def test_the_weights_are_those_of_the_colours_so_far(tmp_path):
    _, method, batch = built("colorization", tmp_path)
    with torch.no_grad():
        first = method.targets(batch)
        assert set(first["weights"].flatten().tolist()) == {0.0, 1.0}  # nothing has been seen: all are alike
        method.after_update({}, first, batch, 0, 1)
        second = method.targets(batch)
    prior = method.color_counts.double() / method.color_counts.sum()
    expected = rebalancing_weights(prior, 0.5)[second["bins"][..., 0]] * second["colored"][:, None]
    torch.testing.assert_close(second["weights"], expected)
    assert second["weights"].unique().numel() > 3


def test_a_network_that_knows_the_answers_is_right_everywhere(tmp_path):
    _, method, batch = built("colorization", tmp_path)
    targets = method.targets(batch)
    right = torch.nn.functional.one_hot(targets["bins"][..., 0], len(bin_centres())).double()
    found = method.loss({"logits": 50 * right}, targets, batch)
    assert float(found["color_top1"]) == pytest.approx(1)
    assert float(found["color_error"]) < 7.1  # half a bin's diagonal


def test_grey_images_count_in_the_loss_of_split_brain_alone_and_the_metrics_text_is_true_of_both(tmp_path):
    for name, counts in (("split_brain", True), ("colorization", False)):
        _, method, batch = built(name, tmp_path)
        views = batch.views["global"]
        grey = replace(batch, views={"global": views.float().mean(2, keepdim=True).byte().expand_as(views)})
        targets, embeddings = method.targets(grey), method.embed(grey)
        assert not targets["colored"].any()
        assert bool(method.loss(embeddings, targets, grey)["loss"] > 0) == counts
        assert method.METRICS["colored_images"].text == "accuracies and errors are of these alone"


@pytest.mark.parametrize("name", ["colorization", "split_brain"])
def test_grey_images_are_refused_at_the_start(name, tmp_path):
    config = method_config(name, tmp_path, "recipe.data.source=digits")
    with pytest.raises(UserError, match="needs color, and the images of 'digits'"):
        open_for_pretraining(config)


@pytest.mark.parametrize(("name", "to"), [("colorization", "torchvision"), ("split_brain", "safetensors")])
def test_an_export_says_what_it_takes_and_comes_back_as_it_was(name, to, tmp_path):
    config, method, batch = built(name, tmp_path)
    encoder = method.encoder.float().eval()
    architecture = Architecture.of_recipe(config.recipe)
    loaded = LoadedEncoder(encoder=encoder, recipe=config.recipe, source="test", architecture=architecture)
    found = export(loaded, to, tmp_path / f"encoder.{to}" if to == "torchvision" else tmp_path / "encoder.safetensors")
    again = load_encoder(found.path).encoder
    views = batch.views["global"][:, 0]
    assert again.takes == encoder.takes
    assert torch.equal(again(views), encoder(views))
    said = json.loads(found.sidecar.read_text())["input"]
    assert ("lightness" in said) == (to == "torchvision")
    if name == "split_brain":
        with pytest.raises(UserError, match="no layout of two networks side by side; take --to safetensors"):
            export(loaded, "torchvision", tmp_path / "no.pth")


def test_the_preview_shows_the_lightness_the_colours_and_the_view(tmp_path):
    config = method_config("colorization", tmp_path)
    sheet = contact_sheet(open_source(config.recipe.data), config.recipe, images=2, epochs=1)
    side, frame = 8, 2
    tiles = [sheet[:, frame : frame + side, n * (side + frame) + frame :][:, :, :side].int() for n in range(4)]
    spread = [int((tile.amax(0) - tile.amin(0)).max()) for tile in tiles]
    assert spread[1] <= 1  # grey
    assert float((tiles[1][0] / 255 - lab_of(tiles[3] / 255)[0] / 100).abs().max()) < 1 / 255
    colors, bins = (lab_of(tiles[n] / 255)[1:, 0, 7] for n in (3, 2))
    assert float((colors - bins).abs().max()) < 6  # paper, whose bin's centre can be shown at that lightness
