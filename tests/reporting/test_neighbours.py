"""Neighbours: what is nearest is found, an image is not its own neighbour, copies are named, nothing is mixed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from simclr_dist.config.recipe import Data
from simclr_dist.data.sources.pixels import PixelRule
from simclr_dist.data.sources.whole import open_whole
from simclr_dist.errors import UserError
from simclr_dist.evaluation import source_features as blocks_of
from simclr_dist.evaluation.feature_files import write_features
from simclr_dist.evaluation.features import Extraction
from simclr_dist.evaluation.similar import SmallPixels, duplicates, most_similar, read_queries
from simclr_dist.evaluation.source_features import SourceFeatures, describe_features
from simclr_dist.reporting.analysis import unit
from simclr_dist.reporting.searching import features_of_file
from simclr_dist.weights.architecture import Architecture, build_encoder
from simclr_dist.weights.export import export
from tests.support.commands import complaint, run_command
from tests.support.evaluation import small_context
from tests.support.images import NOISE, write_image


@pytest.mark.parametrize("centred", [False, True])
def test_what_is_found_block_by_block_is_the_plain_formula_without_the_image_itself_and_broken_ones(
    monkeypatch, centred
):
    monkeypatch.setattr(blocks_of, "_ROWS", 7)
    matrix = np.random.default_rng(0).normal(3, 1, (50, 5)).astype(np.float32)
    matrix[[4, 11]] = np.nan
    samples = np.setdiff1d(np.arange(50), [4, 11])
    queries = np.stack([matrix[20], np.ones(5, dtype=np.float32)])
    found = most_similar(SourceFeatures(matrix, samples, samples), queries, [20, None], 6, centred=centred)
    middle = matrix[samples].mean(0) if centred else np.zeros(5, dtype=np.float32)
    similarity = unit(queries - middle) @ unit(matrix[samples] - middle).T
    similarity[0, samples.tolist().index(20)] = -2
    for row, each in enumerate(found):
        order = np.argsort(-similarity[row])[:6]
        assert each.samples.tolist() == samples[order].tolist()
        assert np.allclose(each.similarities, similarity[row][order], atol=1e-6)


def test_more_neighbours_than_there_are_images_are_all_of_them():
    matrix = np.eye(3, dtype=np.float32)
    found = most_similar(SourceFeatures(matrix, np.arange(3), np.arange(3)), matrix[:1], [0], 20)
    assert sorted(found[0].samples.tolist()) == [1, 2]


def test_small_pixels_are_the_means_of_areas():
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    means = images.float().reshape(2, 3, 16, 2, 16, 2).mean((3, 5)) / 255
    assert torch.allclose(SmallPixels()(images), means.flatten(1), atol=1e-6)


def test_duplicates_are_images_with_all_pixels_the_same():
    one, other = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 2, 8, dtype=torch.uint8)
    changed = one.clone()
    changed[0, 0, 0] = 1
    assert list(duplicates([one, other, one.clone(), changed, other.clone()])) == [None, None, 0, None, 1]


def test_a_query_is_a_file_anywhere_or_a_name_in_the_folder_and_is_known_for_one_of_the_images(tmp_path, monkeypatch):
    for name in ("pictures/a/1.png", "pictures/2.png", "other.png"):
        write_image(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    source = open_whole(Data(path="pictures"))
    asked = ["pictures/a/1.png", "a/1.png", "other.png", str(tmp_path / "pictures" / "2.png")]
    found = read_queries(asked, source, PixelRule())
    assert [(query.name, query.sample) for query in found] == [
        ("a/1.png", 1), ("a/1.png", 1), ("other.png", None), ("2.png", 0),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"IMAGE: 3\.png: no such file, and no image of that name among the 2 images"):
        read_queries(["3.png"], source, PixelRule())


def test_an_image_that_is_a_link_out_of_the_folder_is_known_for_one_of_its_images(tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for name in ("1.png", "2.png"):
        write_image(tmp_path / "kept" / name)
        (tmp_path / "pictures" / name).symlink_to(tmp_path / "kept" / name)
    (tmp_path / "linked").symlink_to(tmp_path / "pictures")
    monkeypatch.chdir(tmp_path)
    source = open_whole(Data(path="pictures"))
    asked = ["pictures/2.png", str(tmp_path / "pictures" / "1.png"), "2.png", "kept/1.png"]
    found = read_queries(asked, source, PixelRule())
    assert [query.sample for query in found] == [1, 0, 1, None]
    through_a_link = open_whole(Data(path="linked"))
    assert [query.sample for query in read_queries(["linked/2.png"], through_a_link, PixelRule())] == [1]


def test_the_command_shows_both_ways_names_a_copy_and_takes_a_file_of_features_of_the_same_images_alone(
    tmp_path, capsys
):
    weights, pictures, page = tmp_path / "weights.safetensors", tmp_path / "pictures", tmp_path / "page.html"
    export(small_context(tmp_path).pretrained, "safetensors", weights)
    for number in range(6):
        write_image(pictures / f"<b>{number}.png", (40 * number, 255 - 40 * number, 90))
    NOISE.save(pictures / "noise.png")
    NOISE.save(pictures / "copy.png")
    (pictures / "bad.png").write_bytes(b"no picture")
    asked = ("neighbours", weights, pictures, "noise.png", "--k", 3, "--out", page)
    status, _, err = run_command(capsys, *asked)
    assert (status, "left out, broken: 1 of 9 images" in err) == (0, True)
    content = page.read_text()
    assert content.count('class="tile wide') == 1 + 2 * 3
    assert content.count("same pixels as the query") == 2
    assert content.count("copy.png") == 2 * 3  # alt, title and name, both ways
    assert "<b>1.png" not in content
    file = tmp_path / "features.npz"
    assert run_command(capsys, "features", weights, pictures, "--out", file)[0] == 0
    assert run_command(capsys, *asked, "--features", file)[0] == 0
    assert page.read_text() == content
    assert run_command(capsys, *asked, "--no-pixels", "--features", file)[0] == 0
    assert page.read_text().count('class="tile wide') == 1 + 3
    write_image(pictures / "new.png")
    status, _, err = run_command(capsys, *asked, "--features", file)
    assert (status, "is of other images" in complaint(err)) == (2, True)
    page.write_text("mine")
    assert "is no page of neighbours" in complaint(run_command(capsys, *asked)[2])
    assert page.read_text() == "mine"


def test_a_file_of_features_of_the_same_weights_with_another_normalisation_or_padding_is_refused(tmp_path, capsys):
    loaded = small_context(tmp_path).pretrained
    write_image(tmp_path / "pictures" / "a.png")
    data = replace(loaded.recipe.data, source="folder", path=str(tmp_path / "pictures"))
    source, own, file = open_whole(data), Architecture.of_recipe(loaded.recipe), tmp_path / "features.npz"
    found, how = SourceFeatures(np.zeros((1, 4), dtype=np.float32), np.arange(1), np.arange(1)), Extraction()

    def network(mean=0.5, **changes):
        architecture = replace(own, **changes)
        encoder = build_encoder(architecture, loaded.encoder.backbone.state_dict(), [mean] * 3, [0.25] * 3)
        return replace(loaded, encoder=encoder, projection=None, architecture=architecture)

    def written(loaded, *without):
        described = describe_features(loaded, tmp_path, source, data, how, found)
        write_features(file, source, found, {key: value for key, value in described.items() if key not in without})

    written(network())
    assert len(features_of_file(file, network(), source, data).samples) == 1
    for other, said in (
        ({"mean": 0.4}, "is of pixels normalised otherwise"),
        ({"stem_padding": 2}, "is of the same weights in another network"),
        ({"output_stride": 4}, "is of the same weights in another network"),
    ):
        with pytest.raises(UserError, match=said):
            features_of_file(file, network(**other), source, data)
    assert capsys.readouterr().err == ""
    written(network(), "architecture")  # as by an earlier version
    assert len(features_of_file(file, network(stem_padding=2), source, data).samples) == 1
    assert "does not say its encoder's strides and paddings" in capsys.readouterr().err
