"""Measures without labels: their formulas, what they say of features made for it, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from simclr_dist.config.recipe import Data
from simclr_dist.evaluation.label_free import ViewsOf
from simclr_dist.evaluation.spectra import alpha_req, lidar
from tests.support.images import open_source
from tests.support.processes import tiny_config


def of_views(images, views, dims):
    random = np.random.default_rng(images)
    mixed = random.normal(size=(images, 1, dims)) @ random.normal(size=(dims, dims))
    return mixed + 0.3 * random.normal(size=(images, views, dims)) * np.arange(1, dims + 1)


@pytest.mark.parametrize(("images", "dims"), [(40, 7), (6, 11)])
def test_lidar_is_the_papers_formula_written_plainly(images, dims):
    rows, delta = of_views(images, 5, dims), 1e-4
    mean = rows.mean((0, 1))
    between = sum(np.outer(each.mean(0) - mean, each.mean(0) - mean) for each in rows) / images
    within = sum(np.outer(view - each.mean(0), view - each.mean(0)) for each in rows for view in each) / (images * 5)
    found = np.linalg.eigvals(np.linalg.inv(within + delta * np.eye(dims)) @ between).real.clip(1e-300)
    shares = found / found.sum()
    assert lidar(torch.from_numpy(rows), delta) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_lidar_counts_the_directions_in_which_images_differ_by_more_than_their_views():
    random = torch.Generator().manual_seed(0)
    means = torch.zeros(4000, 1, 12)
    means[:, 0, :5] = torch.randn(4000, 5, generator=random)
    views = means + 0.01 * torch.randn(4000, 4, 12, generator=random)
    assert lidar(views) == pytest.approx(5, abs=0.1)
    assert lidar(torch.ones(9, 4, 12)) == 0


@pytest.mark.parametrize(("dims", "first"), [(40, 4), (6, 1)])
def test_alpha_req_is_the_line_through_logarithms_that_numpy_fits(dims, first):
    random = np.random.default_rng(dims)
    rows = random.normal(size=(300, dims)) * np.arange(1, dims + 1) ** -0.6 + 3
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(rows.T)))[::-1]
    ranks = np.arange(first, dims + 1)
    # polyfit weighs residuals before they are squared.
    slope = np.polyfit(np.log(ranks), np.log(eigenvalues[first - 1 :]), 1, w=ranks**-0.5)[0]
    assert alpha_req(torch.from_numpy(rows)) == pytest.approx(-slope, rel=1e-9)


def test_alpha_req_finds_the_power_of_a_law_and_nothing_in_two_directions():
    basis = torch.linalg.qr(torch.randn(500, 60, generator=torch.Generator().manual_seed(0)).double())[0]
    basis = torch.linalg.qr(basis - basis.mean(0))[0]  # centred, so the covariance is what is set here
    rows = basis * torch.arange(1, 61) ** -0.65
    assert alpha_req(rows) == pytest.approx(1.3, rel=1e-6)
    assert alpha_req(rows[:, :2]) is None
    assert alpha_req(torch.ones(9, 5)) is None


def test_views_of_an_image_are_several_and_depend_on_seed_image_and_view_alone(tmp_path):
    source, recipe = open_source(Data(source="digits")), tiny_config(tmp_path).recipe
    views = ViewsOf(source, recipe, 4, seed=0)
    assert len(views) == 4 * len(source)
    in_order = [views.read(number) for number in (4, 5, 6, 7)]
    assert len({each.numpy().tobytes() for each in in_order}) == 4
    more = ViewsOf(source, recipe, 8, seed=0)
    assert all(torch.equal(more.read(8 + view), each) for view, each in enumerate(in_order))
    other = ViewsOf(source, recipe, 4, seed=1)
    assert not any(torch.equal(other.read(4 + view), each) for view, each in enumerate(in_order))
    assert other.fingerprint() != views.fingerprint()


def test_the_command_measures_features_and_embeddings_at_any_size_and_its_table_is_in_the_file(run, run_dir, tmp_path):
    found = {}
    for size in (8, 12):
        status, out, told = run("evaluate", run_dir, "label-free", "--views", "2", f"recipe.data.image_size={size}")
        assert status == 0, told
        found[size] = json.loads(Path(out.splitlines()[-1]).read_text())
        assert "LiDAR of 2 views each of 1000" in out
        assert found[size]["data"]["image_size"] == size
        names, dims = zip(*((row["name"], row["dimensions"]) for row in found[size]["rows"]), strict=True)
        assert (names, dims) == (("features", "embeddings"), (128, 16))
        for row in found[size]["rows"]:
            assert 1 < row["rank_me"] < row["dimensions"]
            assert 1 < row["lidar"] < row["dimensions"]
            assert f"{row['lidar']:.2f}" in out
    assert found[8]["rows"] != found[12]["rows"]
