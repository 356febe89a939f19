"""`evaluate RUN probe --grid`: many probes over the same features are each the one that is trained alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from simclr_dist.data.sources.base import Subset
from simclr_dist.errors import UserError
from simclr_dist.evaluation import probe_grid as module
from simclr_dist.evaluation import probes as probes_module
from simclr_dist.evaluation.choices import refuse_foreign
from simclr_dist.evaluation.image_batches import features_as_they_are
from simclr_dist.evaluation.probe_grid import GridResult, probe_grid
from simclr_dist.evaluation.probe_inputs import LayerColumns, scales
from simclr_dist.evaluation.probes import GRID, GridClassifier, HeldOut, Probes, judged, scores_of_probe
from simclr_dist.evaluation.protocol import LINEAR
from simclr_dist.evaluation.saved_training import Unfinished
from simclr_dist.evaluation.subsets import halves, subset_digest
from simclr_dist.evaluation.supervised import Classifier, steps_of, train_classifier
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.layer_features import layer_features
from simclr_dist.models.timm_encoder import TimmEncoder
from simclr_dist.reporting.facts import read_facts
from simclr_dist.reporting.page import page
from tests.support.evaluation import blobs, small_context
from tests.support.processes import run_distributed

IMAGES = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


def trained(classifier, protocol, features, labels, **named):
    order = steps_of(protocol, len(labels), 0)
    train_classifier(classifier, protocol, order, features_as_they_are(features, labels, order), CPU, **named)
    return classifier.linear


def test_each_probe_of_a_grid_is_the_one_that_is_trained_alone_on_its_columns_at_its_rate():
    features, labels = blobs(200)
    chosen, shares = [slice(4, 8), slice(0, 8)], (0.01, 1.0)
    probes = Probes(chosen, torch.full((8,), 0.5), shares, 6, seed=3)
    protocol = replace(GRID, epochs=5, batch_images=64, base_learning_rate=2.0, shares_of_rate=shares)
    grid = trained(GridClassifier(nn.Identity(), probes), protocol, features, labels, loss=probes.loss)
    for number, (columns, share) in enumerate((c, s) for c in chosen for s in shares):
        alone = Classifier(nn.Identity(), columns.stop - columns.start, 6, seed=3)
        rate = replace(LINEAR, epochs=5, batch_images=64, base_learning_rate=2.0 * share)
        linear = trained(alone, rate, 0.5 * features[:, columns], labels)
        expected = linear(torch.from_numpy(0.5 * features[:, columns])).detach().numpy()
        np.testing.assert_allclose(scores_of_probe(grid, number, features), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(grid(torch.from_numpy(features))[:, number].detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_probe_that_diverges_is_no_choice_and_leaves_the_others_as_they_are():
    features, labels = blobs(200)
    shares = (0.1, 1.0)
    protocol = replace(GRID, epochs=3, batch_images=64, base_learning_rate=1.0, shares_of_rate=shares)

    def grid(broken):
        probes = Probes([slice(0, 8)], torch.ones(8), shares, 6, seed=0)
        if broken:
            nn.init.constant_(probes.layers[0].weight[6:], float("inf"))
        classifier = GridClassifier(nn.Identity(), probes)
        trained(classifier, protocol, features, labels, loss=probes.loss, may_diverge=True)
        return scores_of_probe(probes, 0, features), judged(probes, features, np.arange(200), labels)

    (scores, found), (expected, whole) = grid(True), grid(False)
    assert found.top1 == [whole.top1[0], None]
    assert found.best == 0
    np.testing.assert_array_equal(scores, expected)
    assert whole.top1[0] == (expected.argmax(1) == labels).mean()


def test_of_probes_with_as_many_right_the_one_with_the_lowest_cross_entropy_counts():
    assert HeldOut([0.5, 0.9, 0.9, None], [0.1, 0.4, 0.3, float("nan")]).best == 2
    assert HeldOut([None], [float("nan")]).best is None


@pytest.mark.parametrize(
    ("name", "options", "widths", "patches"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 3, "embed_dim": 24, "num_heads": 2}, [24, 24, 24], 24),
        (
            "vit_tiny_patch16_224",
            {"img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 2, "class_token": False, "global_pool": "avg"},
            [24, 24],
            0,
        ),
        ("convnext_atto", {"dims": [8, 8, 16, 24], "depths": [1, 1, 1, 1]}, [8, 8, 16, 24], 0),
    ],
)
def test_columns_of_a_model_of_timm_end_in_its_own_features_and_the_mean_of_its_patches(name, options, widths, patches):
    encoder = TimmEncoder(name, options).eval()
    columns = LayerColumns(encoder, 32)
    assert (columns.widths, columns.patches) == (widths, patches)
    with torch.no_grad():
        made, own = columns(IMAGES), encoder(IMAGES)
        tokens = encoder.backbone.forward_features(encoder.normalised(IMAGES / 255))
    end = sum(widths)
    assert torch.equal(made[:, end - widths[-1] : end], own)
    if patches:
        torch.testing.assert_close(made[:, end:], tokens[:, 1:].mean(1))
    names = [each.name for each in columns.inputs()]
    assert ("last 2, class token + patches" in names) == bool(patches)
    assert len(names) == (1 + (len(widths) > 1) + (len(widths) > 3)) * (1 + bool(patches))


def test_columns_of_a_resnet_are_the_means_of_its_stages_maps_and_end_in_its_own_features():
    encoder = Encoder("resnet10", width=0.25, stem="small").eval()
    with torch.no_grad():
        found = layer_features(encoder, IMAGES, 2).pooled
        pixels = encoder.normalised(IMAGES / 255)
        third = nn.Sequential(encoder.backbone.layer1, encoder.backbone.layer2, encoder.backbone.layer3)
        expected = third(encoder.backbone._stem(pixels)).mean((2, 3))
        assert torch.equal(found[1], encoder(IMAGES))
    torch.testing.assert_close(found[0], expected)
    halves_of_it = LayerColumns(Encoder("resnet10", width=0.25, stem="small", takes="halves"), 32)
    assert halves_of_it.widths == [16, 32, 64, 128]


def test_a_part_whose_numbers_are_all_zero_is_left_as_it_is_and_others_get_a_mean_square_of_one():
    columns = torch.cat((torch.zeros(5, 2), 30 * torch.randn(5, 4)), 1)
    made = scales(columns, [slice(0, 2), slice(2, 6)])
    assert made[:2].tolist() == [1, 1]
    assert float((columns * made)[:, 2:].square().mean()) == pytest.approx(1)


def found_by_grid(folder, augment, numbers_at_once=probes_module._NUMBERS_AT_ONCE):
    probes_module._NUMBERS_AT_ONCE = numbers_at_once
    context = small_context(folder, batch_images=16)
    return probe_grid(context, augment=augment, epochs=4, batch_images=60)


@pytest.mark.parametrize("augment", [False, True])
def test_a_grid_finds_the_same_on_1_and_2_processes_and_never_learns_from_what_it_chooses_on(tmp_path, augment):
    alone = found_by_grid(tmp_path, augment)
    row = alone.rows[0]
    fit, held_out = halves(small_context(tmp_path).train_labels, module.HELD_OUT_SHARE, 0)
    assert row.subsets_sha256 == (subset_digest(fit),)
    assert row.details["held_out_sha256"] == subset_digest(held_out)
    assert row.images + row.details["held_out_images"] == 200
    for other in run_distributed(2, found_by_grid, tmp_path, augment, 3000):  # seven images at once
        (two,) = other.rows
        assert other.protocol == alone.protocol
        tipped = np.abs(np.array(two.details.pop("held_out_top1")) - row.details["held_out_top1"])
        assert tipped.max() <= 1.01 / 20  # rounding may tip one of the 20 images
        assert two.details == {key: value for key, value in row.details.items() if key != "held_out_top1"}
        assert abs(two.mean - row.mean) <= 0.0201


def test_an_epoch_over_some_rows_has_each_of_them_once_with_its_label_and_no_other():
    rows = np.array([2, 3, 5, 7])
    features, labels = np.arange(10, dtype=np.float32)[:, None], np.arange(10)
    order = steps_of(replace(LINEAR, batch_images=2), len(rows), 0)
    seen = list(features_as_they_are(features, labels, order, among=rows)([0, 1]))
    assert sorted(torch.cat([batch for batch, _ in seen]).flatten().tolist()) == rows.tolist()
    assert all(torch.equal(batch[:, 0].long(), answers) for batch, answers in seen)


def test_test_images_do_not_move_the_choice(tmp_path):
    contexts = [small_context(tmp_path), small_context(tmp_path)]
    contexts[1].test_labels = (contexts[1].test_labels + 1) % 10
    one, two = (probe_grid(context, epochs=4).rows[0] for context in contexts)
    assert one.details == two.details
    assert one.top1 != two.top1


def test_features_are_taken_once_for_all_probes(tmp_path, monkeypatch):
    calls = []
    forward = LayerColumns.forward
    monkeypatch.setattr(
        LayerColumns, "forward", lambda self, images: calls.append(len(images)) or forward(self, images)
    )
    probe_grid(small_context(tmp_path, batch_images=50), epochs=2)
    assert sum(calls) == 200 + 100


def test_a_grid_whose_training_had_ended_is_not_trained_again(tmp_path, monkeypatch):
    context = small_context(tmp_path)
    context.unfinished = Unfinished(tmp_path / "unfinished")
    first = probe_grid(context, epochs=2)
    again = small_context(tmp_path)
    again.unfinished = Unfinished(tmp_path / "unfinished")
    monkeypatch.setattr(module, "train_classifier", None)
    assert probe_grid(again, epochs=2).as_dict() == first.as_dict()


def grid_result(best=0.1):
    details = {
        "input": "last 2", "learning_rate": best, "inputs": ["last 1", "last 2"], "columns": [4, 8],
        "learning_rates": [0.01, 0.1], "held_out_top1": [[0.5, None], [0.75, 0.875]], "held_out_images": 40,
        "held_out_sha256": "b",
    }  # fmt: skip
    row = module.ResultRow(
        name="linear probe, best of the grid", labels="90 %", images=360, top1=(0.8125,), subsets_sha256=("a",),
        details=details,
    )  # fmt: skip
    return GridResult(
        method="probe",
        steps_done=3,
        encoder_sha256="a",
        data={"test_images": 100},
        own_images=True,
        protocol={"grid": True},
        rows=(row,),
    )


def test_the_table_names_the_best_and_says_when_it_is_at_the_edge_of_the_grid():
    told = "best: last 2, learning rate 0.1, the largest of the grid: raise it with --learning-rate 1"
    assert told in grid_result().table()
    assert "the smallest of the grid: lower it with --learning-rate 0.01" in grid_result(0.01).table()


def test_a_report_draws_the_grid_with_its_best_probe_framed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    grid_result().write(tmp_path)
    content = page([read_facts(tmp_path, "run")], 4)
    assert 'id="run1-grid"' in content
    assert "last 2, learning rate 0.1: 87.5 %" in content
    assert "81.25 % of the test images right" in content
    assert content.count("stroke:var(--ink);stroke-width:2") == 1


@pytest.mark.parametrize(
    ("method", "given", "solver", "named"),
    [
        ("knn", ["grid"], "auto", "--grid: has no meaning for knn"),
        ("probe", ["grid", "solver"], "lbfgs", "--grid: has no meaning for --solver lbfgs"),
        ("probe", ["grid", "optimizer"], "auto", "--optimizer: has no meaning for --grid"),
    ],
)
def test_options_that_a_grid_cannot_have_are_refused(method, given, solver, named):
    with pytest.raises(UserError, match=named):
        refuse_foreign(method, given, solver)


def test_a_grid_needs_two_images_of_some_class(tmp_path):
    context = small_context(tmp_path)
    first = np.unique(context.train_labels, return_index=True)[1]
    context.train, context.train_labels = Subset(context.train, first), context.train_labels[first]
    with pytest.raises(UserError, match="--grid: no class has two"):
        probe_grid(context)
