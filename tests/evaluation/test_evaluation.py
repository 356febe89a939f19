"""The evaluation harness: frozen is frozen, processes change nothing, nothing is chosen on test images."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.photographs import TEST_SHARE, write_labelled_patches
from simclr_dist.data.loading.plain import PlainBatch
from simclr_dist.data.sources.base import ArraySource, Subset
from simclr_dist.errors import UserError
from simclr_dist.evaluation import fine_tuning, frozen
from simclr_dist.evaluation.classifiers import chosen_probe
from simclr_dist.evaluation.features import (
    Extraction,
    extract_features,
    features_digest,
    raw_pixels,
    reading_workers,
    settle_statistics,
)  # fmt: skip
from simclr_dist.evaluation.knn import knn_accuracy, knn_scores
from simclr_dist.evaluation.online import OnlineEvaluation, least_squares_accuracy
from simclr_dist.evaluation.subsets import few_labels, halves, share_of_labels, subset_digest
from simclr_dist.methods.build import build_encoder
from simclr_dist.models.encoder import LIGHTNESS
from simclr_dist.models.features import features_of
from simclr_dist.run.metrics_log import read_metrics
from simclr_dist.weights.architecture import Architecture
from simclr_dist.weights.architecture import build_encoder as encoder_with
from simclr_dist.weights.digest import state_digest
from tests.support.commands import complaint, run_command
from tests.support.evaluation import blobs, small_context
from tests.support.forked_command import Command
from tests.support.images import open_source, opened, write_image
from tests.support.processes import assert_bit_equal, final_state, losses, pretrain_here, run_distributed, tiny_config

GENERATOR = np.random.default_rng(0)


# --- features


def extracted(folder, batch_images, cache):
    return np.asarray(small_context(folder, batch_images=batch_images, cache=cache).train_features)


def test_features_are_equal_to_the_bit_on_1_and_2_processes_and_to_rounding_at_any_batch_size(tmp_path):
    alone = extracted(tmp_path, 16, None)
    for each in run_distributed(2, extracted, tmp_path, 16, None):
        assert np.array_equal(each, alone)
    for batch_images in (7, 64, 500):
        assert np.abs(extracted(tmp_path, batch_images, None) - alone).max() < 1e-6 * max(1, np.abs(alone).max())


def test_kept_features_are_read_again_whatever_the_number_of_processes_and_a_missing_block_is_made_up(tmp_path):
    first = run_distributed(2, extracted, tmp_path, 16, tmp_path / "features")[1]
    blocks = sorted((tmp_path / "features").glob("*/block_*.npy"))
    assert len(blocks) == 13
    blocks[3].unlink()
    np.save(blocks[5], np.load(blocks[5]) + 1)  # so that reading it shows
    again = extracted(tmp_path, 16, tmp_path / "features")
    changed = np.flatnonzero((again != first).any(1))
    assert changed.tolist() == list(range(5 * 16, 6 * 16))


def test_other_weights_are_not_taken_for_the_kept_ones(tmp_path):
    context = small_context(tmp_path, cache=tmp_path / "features")
    before = context.train_features
    with torch.no_grad():
        context.pretrained.encoder.backbone.conv1.weight.mul_(2)
        context.pretrained.encoder.backbone.bn1.bias.add_(1)
    after = extract_features(context.pretrained.encoder, context.train, 8, context.how)
    assert not np.allclose(before, after)


class _Mode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, images):
        self.seen.append(self.training)
        return images.flatten(1).float()


def test_extraction_evaluates_and_gives_each_part_its_mode_back():
    encoder = nn.Sequential(_Mode(), nn.Sequential(nn.Identity())).train()
    encoder[1].eval()
    source = ArraySource(np.zeros((3, 3, 8, 8), dtype=np.uint8), None, [])
    extract_features(encoder, source, 8)
    assert encoder[0].seen == [False]
    assert (encoder.training, encoder[0].training, encoder[1].training) == (True, True, False)


class _Device(nn.Linear):
    def forward(self, images):
        self.seen = images.device
        return images


def test_statistics_are_settled_where_the_encoder_stands():
    encoder = _Device(1, 1, device="meta")
    settle_statistics(encoder, ArraySource(np.zeros((3, 3, 8, 8), dtype=np.uint8), None, []), 8)
    assert encoder.seen.type == "meta"


def test_a_network_from_scratch_goes_to_the_device_before_its_statistics_are_settled(tmp_path, monkeypatch):
    class Settled(Exception):
        pass

    def settle(body, *_):
        raise Settled(next(body.parameters()).device.type)

    monkeypatch.setattr(fine_tuning, "settle_statistics", settle)
    with pytest.raises(Settled, match="meta"):
        fine_tuning.finetune(small_context(tmp_path, device=torch.device("meta")), starts=("scratch",), batch_images=50)


def test_half_precision_moves_features_by_its_rounding_and_they_are_float32(tmp_path):
    context = small_context(tmp_path)
    whole = np.asarray(context.train_features)
    how = replace(context.how, autocast=torch.bfloat16)
    half = extract_features(context.pretrained.encoder, context.train, 8, how)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).max() < 0.05 * np.abs(whole).max()
    digests = [features_digest(context.pretrained.encoder, context.train, 8, each) for each in (how, context.how)]
    assert digests[0] != digests[1]


def test_kept_features_are_never_those_of_the_same_weights_in_another_network(tmp_path):
    context = small_context(tmp_path, cache=tmp_path / "kept")
    own = Architecture.of_recipe(context.recipe)
    state = context.pretrained.encoder.backbone.state_dict()
    networks = [own, replace(own, stem_padding=2), replace(own, output_stride=4), replace(own, takes=LIGHTNESS)]
    encoders = [encoder_with(each, state, [0.5] * 3, [0.5] * 3) for each in networks]
    assert len({state_digest([encoder]) for encoder in encoders}) == 1
    assert len({features_digest(encoder, context.train, 8, context.how) for encoder in encoders}) == 4
    few = Subset(context.train, np.arange(8))
    for encoder in encoders:
        kept, anew = (extract_features(encoder, few, 8, how) for how in (context.how, replace(context.how, cache=None)))
        assert np.array_equal(kept, anew)


class _Writes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


def test_where_every_image_was_read_no_row_is_written():
    images = torch.ones(3, 2)
    with _Writes() as writes:
        whole = features_of(nn.Identity(), PlainBatch(images, []), torch.device("cpu"))
        assert not any("index_put" in name for name in writes.names)
        broken = features_of(nn.Identity(), PlainBatch(images.clone(), [1]), torch.device("cpu"))
        assert any("index_put" in name for name in writes.names)
    assert whole.isfinite().all()
    assert broken.isnan().all(dim=1).tolist() == [False, True, False]


# --- subsets


def test_subsets_are_class_balanced_nested_and_fixed_to_the_digit():
    labels = np.repeat(np.arange(4), (10, 20, 30, 40)).astype(np.int64)
    few, more = few_labels(labels, 2, split=3), few_labels(labels, 5, split=3)
    assert np.bincount(labels[few]).tolist() == [2, 2, 2, 2]
    assert set(few) < set(more)
    assert np.bincount(labels[share_of_labels(labels, 0.1, split=0)]).tolist() == [1, 2, 3, 4]
    assert np.bincount(labels[share_of_labels(labels, 0.001, split=0)]).tolist() == [1, 1, 1, 1]
    assert sorted(share_of_labels(labels, 1.0, split=0)) == list(range(100))
    assert set(few_labels(labels, 2, split=4)) != set(few)
    assert subset_digest(few) == "4fb12f5a8ec2433037fc34b9a8593f896b4c5474ab7cb6604afe332efb5365de"


def test_the_two_halves_share_no_image_and_hold_every_one():
    labels = np.repeat(np.arange(3), (1, 2, 50)).astype(np.int64)
    fit, held_out = halves(labels, 0.2, split=0)
    assert sorted([*fit, *held_out]) == list(range(53))
    assert np.bincount(labels[held_out], minlength=3).tolist() == [0, 1, 10]


# --- classifiers


def plain_knn(train, train_labels, test, k, temperature):
    """The formula in one large matrix."""
    unit = [features / np.linalg.norm(features, axis=1, keepdims=True) for features in (train, test)]
    similarity = unit[1] @ unit[0].T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    there = np.take_along_axis(similarity, nearest, axis=1)
    votes = np.exp((there - there[:, :1]) / temperature)
    return np.stack([(votes * (train_labels[nearest] == c)).sum(1) for c in range(train_labels.max() + 1)], axis=1)


def knn_in_small_blocks(features, labels, test, k):
    from simclr_dist.evaluation import knn

    knn._BANK_ROWS, knn._TEST_ROWS = 32, 7
    return knn_scores(features, labels, test, neighbours=k, distributed=True)


@pytest.mark.parametrize("k", [1, 20, 400])
def test_knn_block_by_block_on_1_and_2_processes_is_the_plain_formula(k, monkeypatch):
    features, labels = blobs()
    test, _ = blobs(50)
    expected = plain_knn(features, labels, test, k, 0.1)
    np.testing.assert_allclose(knn_scores(features, labels, test, neighbours=k), expected, rtol=1e-4, atol=1e-6)
    for scores in run_distributed(2, knn_in_small_blocks, features, labels, test, k):
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1e-2, 1e-3, 1e-6])
def test_the_nearer_neighbours_win_at_a_small_temperature_whose_weights_a_float32_could_not_hold(temperature):
    features, labels = blobs(dim=64)
    test = features + np.random.default_rng(0).normal(size=features.shape).astype(np.float32)
    nearest = plain_knn(features, labels, test, 1, 1.0).argmax(1)
    scores = knn_scores(features, labels, test, temperature=temperature)
    assert scores.max(1).min() >= 1
    if temperature < 1e-2:  # the nearest outvotes all others
        assert (scores.argmax(1) == nearest).mean() > 0.98
    assert len(set(scores.argmax(1))) == 6


def test_a_class_without_a_vote_is_not_among_the_five_that_nearest_neighbours_answer(tmp_path):
    context = small_context(tmp_path)
    context.train_features, context.train_labels = blobs()
    context.test_features, context.test_labels = blobs(dim=context.train_features.shape[1])
    context.test_features = -context.test_features  # so that most are wrong
    (row,) = frozen.knn(context, neighbours=1).rows
    assert row.top5 == row.top1


def test_the_probe_is_scikit_learns_logistic_regression_at_the_l2_chosen_without_test_images():
    features, labels = blobs()
    test, test_labels = blobs(200)
    found = chosen_probe(features, labels)
    plain = LogisticRegression(C=found.inverse_l2, max_iter=5000).fit(features, labels).score(test, test_labels)
    assert abs((found.scores(test).argmax(1) == test_labels).mean() - plain) <= 0.002
    assert found.validation[found.inverse_l2] == max(found.validation.values())
    assert len(found.held_out) == 60


def test_the_probe_by_sgd_comes_within_a_point_of_logistic_regression(tmp_path):
    context = small_context(tmp_path)
    context.train_features, context.train_labels = blobs(3000)
    context.test_features, context.test_labels = blobs(2000)
    context.train = Subset(context.train, np.zeros(3000, dtype=np.int64))
    context.classes = 6
    by_sgd = frozen.probe(context, solver="sgd", batch_images=256, base_learning_rate=1.0).rows[0].mean
    assert abs(by_sgd - frozen.probe(context).rows[0].mean) < 0.01


def test_least_squares_separates_what_a_linear_head_can():
    features, labels = blobs(600, dim=16)
    assert least_squares_accuracy(features, labels, features, labels) > 0.9
    assert least_squares_accuracy(features, labels, features, (labels + 1) % 6) < 0.1


# --- methods


def all_rows(folder, names):
    context = small_context(folder, batch_images=16)
    before = state_digest([context.pretrained.encoder, context.pretrained.projection])
    found = {name: METHODS[name](context) for name in names}
    assert state_digest([context.pretrained.encoder, context.pretrained.projection]) == before
    assert not any(module.training for module in context.pretrained.encoder.modules())
    return {name: result and result.as_dict() for name, result in found.items()}


METHODS = {
    "knn": frozen.knn,
    "probe": frozen.probe,
    "sgd": lambda context: frozen.probe(context, solver="sgd", epochs=20, batch_images=50),
    "augment": lambda context: frozen.probe(context, augment=True, epochs=2, batch_images=50),
    "lowshot": lambda context: frozen.lowshot(context, labels_per_class=[1, 5], splits=2),
    "finetune": lambda context: fine_tuning.finetune(
        context, label_shares=(0.2,), epochs=3, batch_images=20, starts=("pretrained", "scratch"), from_layer=1
    ),
}


def test_every_method_leaves_the_encoder_bit_equal_repeats_to_the_digit_and_agrees_on_1_and_2_processes(tmp_path):
    alone = all_rows(tmp_path, list(METHODS))
    assert all_rows(tmp_path, list(METHODS)) == alone
    first, second = run_distributed(2, all_rows, tmp_path, list(METHODS))
    for name in METHODS:
        for one, two in zip(alone[name]["rows"], first[name]["rows"], strict=True):
            assert abs(one["mean"] - two["mean"]) <= 0.0201, name  # rounding may tip two of the 100 test images
            assert one["subsets_sha256"] == two["subsets_sha256"]
        assert alone[name]["protocol"] == first[name]["protocol"]
    assert first["knn"] == second["knn"] == alone["knn"]
    assert second["probe"] is second["lowshot"] is None


@pytest.mark.parametrize(("method", "start"), [("dino", "pretrained"), ("dino", "scratch"), ("densecl", "scratch")])
def test_below_the_classifier_lies_the_head_that_the_method_names(tmp_path, method, start):
    asked = {"label_shares": (0.1,), "epochs": 1, "batch_images": 20, "starts": (start,), "from_layer": 1}
    (row,) = fine_tuning.finetune(small_context(tmp_path, method), **asked).rows
    assert 0 <= row.top1[0] <= 1


def trained_weights(folder):
    context = small_context(folder)
    caught = {}
    before = fine_tuning.train_classifier

    def train_and_catch(classifier, *arguments, **named):
        before(classifier, *arguments, **named)
        caught.update(classifier.state_dict())

    fine_tuning.train_classifier = train_and_catch
    fine_tuning.finetune(context, label_shares=(0.2,), epochs=2, batch_images=20)
    fine_tuning.train_classifier = before
    return caught


def test_fine_tuned_weights_are_the_same_on_1_and_2_processes_within_rounding(tmp_path):
    alone = trained_weights(tmp_path)
    for name, value in run_distributed(2, trained_weights, tmp_path)[0].items():
        torch.testing.assert_close(value, alone[name], rtol=1e-3, atol=1e-4, msg=name)


def test_results_of_other_numbers_are_not_overwritten(tmp_path):
    result = frozen.knn(small_context(tmp_path))
    path = result.write(tmp_path)
    assert result.write(tmp_path) == path
    other = replace(result, rows=(replace(result.rows[0], top1=(0.5,)),))
    second = other.write(tmp_path)
    assert second.name == f"{path.stem}_2.json"
    assert json.loads(path.read_text())["rows"][0]["mean"] == result.rows[0].mean
    assert other.write(tmp_path) == second


def test_a_result_says_how_pictures_were_read_and_what_was_assumed_of_a_foreign_file(tmp_path):
    context = small_context(tmp_path)
    usual = frozen.knn(context)
    assert not {"apply_orientation", "transparent_ground", "mean"} & usual.data.keys()
    context.data = replace(context.data, apply_orientation=False)
    turned = frozen.knn(context)
    assert turned.data["apply_orientation"] is False
    context.pretrained = replace(context.pretrained, recipe_known=False)
    foreign = frozen.knn(context)
    assert foreign.data["mean"] == context.pretrained.mean
    assert len({each.file_name() for each in (usual, turned, foreign)}) == 3


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda context: frozen.lowshot(context, labels_per_class=[1, 500]), "--labels: 500"),
        (lambda context: fine_tuning.finetune(context, from_layer=3), "--from-layer: 3"),
        (lambda context: frozen.probe(context, solver="sgd", base_learning_rate=1e38), "--learning-rate"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_named(tmp_path, ask, named):
    with pytest.raises(UserError, match=named):
        ask(small_context(tmp_path))


def test_no_method_evaluates_weights_whose_features_are_not_finite(tmp_path):
    for name in ("knn", "probe", "sgd", "lowshot"):
        context = small_context(tmp_path)
        context.pretrained.encoder.backbone.conv1.weight.data.fill_(1e38)
        with pytest.raises(UserError, match=r"image 0: its features are not finite.* diverged"):
            METHODS[name](context)


# --- online


@pytest.mark.parametrize("processes", [1, 2])
def test_online_evaluation_leaves_weights_and_generators_bit_equal(tmp_path, processes):
    for every in (0, 1):
        run = tmp_path / f"run_{every}"
        keys = (f"machine.run_dir={run}", "recipe.global_batch_images=256", f"machine.evaluate_every_epochs={every}")
        config = tiny_config(tmp_path, *keys, "recipe.epochs=2")
        run_distributed(processes, random_state_after, config)
    first, second = final_state(tmp_path / "run_0"), final_state(tmp_path / "run_1")
    assert first["step"] == 10
    for part in ("model", "optimizer"):
        assert_bit_equal(first[part], second[part])
    assert losses(tmp_path / "run_0") == losses(tmp_path / "run_1")
    lines = [json.loads(line) for line in (tmp_path / "run_1" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [line for line in lines if "online_knn_top1" in line]
    assert [line["step"] for line in evaluated] == [5, 10]
    assert all(0.2 < line["online_knn_top1"] <= 1 and 0.2 < line["online_linear_top1"] <= 1 for line in evaluated)


def random_state_after(config):
    before = torch.get_rng_state()
    pretrain_here(config)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("overrides", "workers", "autocast"),
    [
        (["machine.loader_workers=3", "machine.precision=bfloat16"], 3, torch.bfloat16),
        (["machine.loader_workers=-1", "machine.precision=tf32"], 0, None),  # so few images
    ],
)
def test_an_online_evaluation_reads_and_computes_as_training_does(tmp_path, monkeypatch, overrides, workers, autocast):
    config = tiny_config(tmp_path, "machine.evaluate_every_epochs=1", *overrides)
    evaluation = OnlineEvaluation(config.recipe, config.machine, 5, torch.device("cpu"), cores=12)
    assert (evaluation.how.workers, evaluation.how.autocast) == (workers, autocast)


def test_workers_change_no_number_of_an_online_evaluation_and_draw_none(tmp_path):
    found, drawn = [], torch.get_rng_state()
    for workers in (0, 2):
        config = tiny_config(tmp_path, "machine.evaluate_every_epochs=1", f"machine.loader_workers={workers}")
        evaluation = OnlineEvaluation(config.recipe, config.machine, 5, torch.device("cpu"))
        found.append(evaluation.after_step(5, build_encoder(config.recipe)))
    assert found[0] == found[1]
    assert found[0]["online_knn_top1"] > 0.1
    assert torch.equal(torch.get_rng_state(), drawn)


def test_few_images_are_read_without_workers_unless_some_are_asked_for():
    assert [reading_workers(-1, 12, images) for images in (4999, 5000)] == [0, 12]
    assert reading_workers(3, 12, 10) == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_a_look_and_evaluation_leave_images_out_that_the_run_found_broken(tmp_path, run, processes):
    random = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "images" / ("test" if number > 31 else "train") / ("dark" if number % 2 else "bright")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 60, (8, 8, 3), dtype=np.uint8) + (0 if number % 2 else 180)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02}.png")
    for name in ("train/dark/01.png", "train/bright/02.png", "train/bright/04.png"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    keys = (
        "recipe.data.source=folder", f"recipe.data.path={tmp_path / 'images'}", "recipe.global_batch_images=16",
        "machine.evaluate_every_epochs=1", "machine.max_broken_image_share=0.1",
    )  # fmt: skip
    run_distributed(processes, pretrain_here, tiny_config(tmp_path, *keys))
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "online_knn_top1" in line] == [2, 4]
    assert all(math.isfinite(line.get("online_linear_top1", 0)) for line in lines)
    assert len((tmp_path / "run" / "broken_images.txt").read_text().splitlines()) == 3
    with pytest.raises(UserError, match=r"every image is needed, and one is broken: bright/02\.png"):
        extract_features(nn.Flatten(), open_source(tiny_config(tmp_path, *keys).recipe.data, "train"), 8)
    status, _, said = run("evaluate", str(tmp_path / "run"), "knn")
    assert status == 0, said
    assert "left out, as pretraining found them to be broken: 3 images" in said
    assert "images/train: 29 images in 2 classes" in said
    (found,) = (tmp_path / "run").glob("evaluation_*_knn_*.json")
    assert json.loads(found.read_text())["data"]["left_out_broken_images"] == 3


def test_a_look_at_images_of_one_class_is_refused_when_the_run_starts(tmp_path):
    for split in ("train", "test"):
        for number in range(4):
            write_image(tmp_path / "images" / split / "cat" / f"{number}.png")
    keys = ("recipe.data.source=folder", f"recipe.data.path={tmp_path / 'images'}", "machine.evaluate_every_epochs=1")
    config = tiny_config(tmp_path, *keys)
    with pytest.raises(UserError, match=r"^machine\.evaluate_every_epochs: .* of one class; set it to 0$"):
        OnlineEvaluation(config.recipe, config.machine, 1, torch.device("cpu"), cores=1)


# --- photographs


def test_train_and_test_patches_of_a_photograph_share_no_pixel(tmp_path, monkeypatch):
    columns = np.tile(np.arange(256, dtype=np.uint8)[:, None], (100, 1, 3))  # a pixel's value tells its column
    monkeypatch.setattr("benchmarks.photographs.photographs", lambda: {"a": columns, "b": columns})
    write_labelled_patches(tmp_path / "photographs", side=16, train=30, test=10)
    config = tiny_config(tmp_path, "recipe.data.source=folder", f"recipe.data.path={tmp_path / 'photographs'}")
    train, test = (open_source(config.recipe.data, split) for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (60, 20, ["a", "b"])
    border = round(256 * (1 - TEST_SHARE))
    assert max(int(train.read(sample).max()) for sample in range(60)) < border
    assert min(int(test.read(sample).min()) for sample in range(20)) >= border


def test_nearest_neighbours_of_raw_pixels_tell_the_photographs_apart(tmp_path):
    write_labelled_patches(tmp_path / "photographs", side=16, train=20, test=5)
    config = tiny_config(tmp_path, "recipe.data.source=folder", f"recipe.data.path={tmp_path / 'photographs'}")
    train, test = (open_source(config.recipe.data, split) for split in ("train", "test"))
    assert knn_accuracy(raw_pixels(train, 16), train.labels, raw_pixels(test, 16), test.labels) > 2 / 6


# --- the command


def test_the_command_prints_a_table_and_writes_the_same_result_on_1_and_2_processes(run_dir, capsys, tmp_path):
    status, out, _ = run_command(capsys, "evaluate", run_dir, "knn", "--k", "5", "--device", "cpu")
    assert status == 0
    assert "kNN, pretrained" in out
    path = Path(out.splitlines()[-1])
    before = path.read_bytes()
    found = json.loads(before)
    assert (found["method"], found["steps_done"], found["protocol"]["neighbours"]) == ("knn", 1, 5)
    path.unlink()
    arguments = ["evaluate", str(run_dir), "knn", "--k", "5", "--no-cache", "--device", "cpu", "--processes", "2"]
    again = Command(tmp_path, arguments)
    _, errors = again.communicate()
    assert again.poll() == 0, errors
    assert path.read_bytes() == before


def test_other_images_are_evaluated_on_by_the_name_of_their_folder(run_dir, tmp_path, capsys):
    write_labelled_patches(tmp_path / "photographs", side=16, train=4, test=2)
    status, out, _ = run_command(capsys, "evaluate", run_dir, "knn", "--on", tmp_path / "photographs")
    assert status == 0
    found = json.loads(Path(out.splitlines()[-1]).read_text())["data"]
    assert (found["source"], found["classes"], found["train_images"], found["image_size"]) == ("folder", 6, 24, 8)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["knm"], "did you mean 'knn'"),
        (["knn", "probe"], "one method at a time"),
        (["knn", "--labels", "10"], "--labels: has no meaning for knn; it belongs to label-curve, lowshot"),
        (["probe", "--solver", "lbfgs", "--epochs", "3"], "--epochs"),
        (["finetune", "--shares", "1,200"], "--shares: '1,200'"),
        (["knn", "--k", "0"], "--k"),
        (["knn", "--on", "nowhere"], "nowhere"),
        (["knn", "recipe.data.sise=3"], "sise"),
        (["--on", "cifar10"], "recipe.data.path"),
        (["lowshot", "--labels", "1000"], "1000 labels a class"),
    ],
)
def test_a_wrong_wish_is_one_line_and_status_2(run_dir, capsys, arguments, named):
    status, _, err = run_command(capsys, "evaluate", run_dir, *arguments)
    assert status == 2
    assert named in complaint(err)


def test_features_of_images_replaced_under_their_names_are_not_the_kept_ones(tmp_path):
    for number in range(3):
        write_image(tmp_path / "images" / "cat" / f"{number}.bmp")
    source, how = opened("folder", tmp_path / "images"), Extraction(batch_images=2, cache=tmp_path / "kept")
    extract_features(nn.Flatten(), source, 8, how)
    replaced = tmp_path / "images" / "cat" / "1.bmp"
    pixels = np.asarray(Image.open(replaced))
    Image.fromarray(255 - pixels).save(replaced)
    kept, anew = (extract_features(nn.Flatten(), source, 8, each) for each in (how, Extraction(batch_images=2)))
    np.testing.assert_array_equal(kept, anew)


class _InfiniteOfFour(nn.Module):
    def forward(self, images):
        means = images.float().mean((2, 3))
        return torch.where(means == 4, torch.inf, means)


def refused_as_not_finite(cache):
    values = np.arange(6, dtype=np.uint8)[:, None, None, None]
    source = ArraySource(np.broadcast_to(values, (6, 3, 8, 8)), None, [])
    with pytest.raises(UserError) as refused:
        extract_features(_InfiniteOfFour(), source, 8, Extraction(batch_images=2, cache=cache))
    return str(refused.value)


@pytest.mark.parametrize("processes", [1, 2])
def test_features_that_are_not_finite_are_refused_by_their_image_and_neither_kept_nor_read_again(tmp_path, processes):
    told = "4: its features are not finite"
    assert all(told in each for each in run_distributed(processes, refused_as_not_finite, tmp_path))
    blocks = sorted(tmp_path.rglob("*.npy"))
    assert [file.name for file in blocks] == ["block_000000.npy", "block_000001.npy"]
    np.save(blocks[0], np.full((2, 3), np.nan, dtype=np.float32))
    told = "0: its features are not finite"
    assert all(told in each for each in run_distributed(processes, refused_as_not_finite, tmp_path))


def test_kept_features_that_were_cut_off_are_computed_again(tmp_path):
    source, how = (
        ArraySource(np.zeros((6, 3, 8, 8), dtype=np.uint8), None, []),
        Extraction(batch_images=2, cache=tmp_path),
    )
    whole = extract_features(nn.Flatten(), source, 8, how)
    blocks = sorted(tmp_path.rglob("*.npy"))
    blocks[0].write_bytes(blocks[0].read_bytes()[:-8])
    blocks[1].write_bytes(b"")
    np.testing.assert_array_equal(extract_features(nn.Flatten(), source, 8, how), whole)
