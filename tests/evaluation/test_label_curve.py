"""The label curve is honest: classes are looked at, baselines stand in their best form, regressions converge."""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from simclr_dist.data.sources.base import ArraySource
from simclr_dist.errors import UserError
from simclr_dist.evaluation.classifiers import INVERSE_L2, accuracies, balanced_accuracy, chosen_probe
from simclr_dist.evaluation.features import raw_pixels
from simclr_dist.evaluation.forms import FORMS, forms
from simclr_dist.evaluation.knn import knn_accuracy, knn_scores, knn_votes
from simclr_dist.evaluation.label_curve import CLASSIFIERS, Point, label_curve
from simclr_dist.evaluation.labelled_images import look_at_classes
from simclr_dist.evaluation.logistic import regression_path
from simclr_dist.evaluation.report import table
from simclr_dist.evaluation.subsets import few_labels
from simclr_dist.evaluation.untrained import untrained_encoder
from tests.support.commands import run_command
from tests.support.evaluation import blobs, small_context


def source(labels, classes=()):
    return ArraySource(np.zeros((len(labels), 3, 8, 8), dtype=np.uint8), np.array(labels, dtype=np.int64), [*classes])


# --- the classes


@pytest.mark.parametrize("labels", [[0, 0, 0], [2, 2]])
def test_one_class_is_refused_by_its_name(labels):
    with pytest.raises(UserError, match=r"are of one class \('[ac]'\)"):
        look_at_classes(source(labels, "abc"), source(labels, "abc"))


def test_classes_that_one_split_lacks_are_named_and_numbered_without_gaps():
    found = look_at_classes(source([0, 2, 2, 3], "abcd"), source([0, 1, 1, 2], "abcd"))
    assert found.classes == ["a", "c", "d"]
    assert found.train_labels.tolist() == [0, 1, 1, 2]
    assert found.train.labels.tolist() == [0, 1, 1, 2]
    assert (found.test_labels.tolist(), len(found.test), found.left_out) == ([0, 1], 2, 2)
    assert "left out: 2 test images of classes without training images, 'b'" in found.notices[0]
    assert "without test images, so that nothing asks for them: 'd'" in found.notices[1]


def test_splits_that_number_their_classes_differently_are_joined_by_name_and_doubled_names_by_number():
    assert look_at_classes(source([0, 1], "ab"), source([0, 0, 1], "bc")).test_labels.tolist() == [1, 1]
    doubled = look_at_classes(source([0, 1, 2], ["crane", "crane", "b"]), source([1, 0], ["crane", "crane"]))
    assert doubled.test_labels.tolist() == [1, 0]


def test_splits_without_a_common_class_are_refused():
    with pytest.raises(UserError, match="no test image is of a class of the training images"):
        look_at_classes(source([0, 1], "ab"), source([0, 0], "c"))


def test_classes_as_they_should_be_leave_the_images_as_they_are_and_say_nothing():
    train, test = source([0, 1, 0, 1]), source([1, 0])
    found = look_at_classes(train, test)
    assert found.train is train
    assert found.test is test
    assert found.notices == []


def test_unequal_classes_are_said():
    (notice,) = look_at_classes(source([0, 0, 0, 0, 1]), source([0, 1])).notices
    assert "1 to 4 training images" in notice


def test_balanced_accuracy_is_the_mean_over_the_classes_that_are_asked_about():
    assert balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 2])) == 0.5
    assert accuracies(np.eye(3)[[0, 0, 0, 0]], np.array([0, 0, 0, 2])) == (0.75, None, 0.5)


def folder_of(root, sizes):
    for split in ("train", "test"):
        for name, size in sizes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(size):
                pixels = np.random.default_rng([number, len(name)]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize("method", ["label-curve", "lowshot"])
def test_the_usual_numbers_of_labels_are_cut_to_half_of_the_classes_and_that_is_said(run_dir, tmp_path, capsys, method):
    images = folder_of(tmp_path / "images", {"a": 12, "bb": 6, "ccc": 11})
    status, out, err = run_command(capsys, "evaluate", run_dir, method, "--on", images)
    assert status == 0
    shown = "1, 2, 5, 10" if method == "label-curve" else "10"
    short = "where a class has fewer, all of them: class 'bb' has 6 training images"
    assert f"labels a class: {shown}; {short}\n" in err
    assert "balanced" in out
    assert "+-" in out or "std" in out
    found = json.loads(Path(out.splitlines()[-1]).read_text())
    assert (found["own_images"], found["data"]["train_images"], found["data"]["source"]) == (False, 29, "folder")
    assert found["protocol"]["splits"] == 5
    assert all(row["balanced"] for row in found.get("points") or found["rows"])


def test_one_class_is_refused_by_the_command_and_a_wish_that_a_class_cannot_meet_names_the_class(
    run_dir, tmp_path, capsys
):
    status, _, err = run_command(capsys, "evaluate", run_dir, "knn", "--on", folder_of(tmp_path / "one", {"only": 3}))
    assert (status, err.count("\n")) == (2, 1)
    assert "of one class ('only')" in err
    images = folder_of(tmp_path / "two", {"a": 12, "bb": 6})
    status, _, err = run_command(capsys, "evaluate", run_dir, "--on", images, "--labels", "1,10")
    assert status == 2
    assert "--labels: 10 labels a class, but class 'bb' has 6 training images" in err


# --- logistic regression


@pytest.mark.parametrize(("classes", "images", "dim"), [(2, 60, 5), (6, 60, 8), (6, 60, 300)])
def test_regressions_are_scikit_learns_at_the_same_c_in_few_and_many_dimensions(classes, images, dim):
    drawn = [blobs(images + 12 * n, classes, dim) for n in range(2)]
    features = np.stack([each[:images] for each, _ in drawn])
    labels = np.stack([each[:images] for _, each in drawn])
    test, answers = blobs(500, classes, dim)
    path = regression_path(torch.from_numpy(features), torch.from_numpy(labels), classes, INVERSE_L2)
    for c, models in zip(INVERSE_L2, path, strict=True):
        for problem, scores in enumerate(models.scores(torch.from_numpy(test)).numpy()):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                plain = LogisticRegression(C=c, solver="newton-cholesky" if dim < 100 else "lbfgs", max_iter=20_000)
                plain.set_params(tol=1e-9 if dim < 100 else 1e-6)
                plain.fit(features[problem].astype(np.float64), labels[problem])
            assert abs((scores.argmax(1) == answers).mean() - plain.score(test, answers)) <= 0.002
            np.testing.assert_allclose(
                torch.softmax(torch.from_numpy(scores), 1), plain.predict_proba(test), atol=0.005
            )


@pytest.mark.cuda
def test_a_probe_on_the_gpu_is_that_of_the_cpu():
    (features, labels), (asked, _) = blobs(400, 5, 20), blobs(100, 5, 20)
    here, there = (chosen_probe(features, labels, device=device) for device in ("cpu", "cuda"))
    assert there.inverse_l2 == here.inverse_l2
    np.testing.assert_allclose(there.scores(asked), here.scores(asked), atol=1e-6)


def test_images_that_are_all_the_same_are_no_obstacle():
    models = next(regression_path(torch.ones(1, 4, 3), torch.tensor([[0, 1, 1, 1]]), 2, [1.0]))
    torch.testing.assert_close(
        torch.softmax(models.scores(torch.ones(1, 3)), 2)[0, 0], torch.tensor([0.25, 0.75]).double(), atol=1e-4, rtol=0
    )


# --- forms of features


def test_whitened_images_have_uncorrelated_axes_also_with_more_features_than_images():
    for dim in (8, 600):
        train, _ = blobs(300, 6, dim)
        found = {name: rows for name, rows, _ in forms(train, train[:5])}
        assert list(found) == list(FORMS)
        np.testing.assert_allclose(found["centred"].mean(0), 0, atol=1e-5)
        covariance = np.cov(found[FORMS[-1]].T)
        off = covariance - np.diag(np.diag(covariance))
        assert np.abs(off).max() < 1e-3 * np.diag(covariance).max()


def test_votes_of_several_numbers_of_neighbours_are_those_of_each_alone():
    features, labels = blobs(40)
    test, _ = blobs(20)
    for k, found in zip((1, 5, 100), knn_votes(features, labels, test, [1, 5, 100]), strict=True):
        np.testing.assert_allclose(found.numpy(), knn_scores(features, labels, test, neighbours=k), rtol=1e-5)


# --- the curve


def test_nearest_neighbours_of_pictures_on_one_ground_are_given_centred_pixels(tmp_path):
    """Before the mean is subtracted faint pictures are the nearest neighbours of all others."""
    context = small_context(tmp_path)
    random = np.random.default_rng(0)
    patterns = random.choice([-1, 1], (4, 3, 8, 8))

    def pictures(count):
        labels = np.arange(count) % 4
        strength = random.uniform(0.1, 1, (count, 1, 1, 1))
        images = 128 + strength * (12 * patterns[labels] + random.normal(0, 30, (count, 3, 8, 8)))
        return ArraySource(images.clip(0, 255).astype(np.uint8), labels.astype(np.int64), [])

    context.train, context.test = pictures(80), pictures(100)
    context.train_labels, context.test_labels, context.classes = context.train.labels, context.test.labels, 4
    found = {(p.features, p.classifier, p.labels_per_class): p for p in label_curve(context, [5, 10], 2)}
    assert len(found) == 3 * len(CLASSIFIERS) * 2
    pixels = [raw_pixels(images, 8) for images in (context.train, context.test)]
    drawn = few_labels(context.train_labels, 10, 0)
    plain = knn_accuracy(pixels[0][drawn], context.train_labels[drawn], pixels[1], context.test_labels)
    assert found["raw pixels", "kNN", 10].form != "as they are"
    assert found["raw pixels", "kNN", 10].accuracies[0] > plain + 0.1


def test_how_far_a_curve_is_is_said_within_the_splits_of_one_number_of_labels(tmp_path, monkeypatch):
    done: list[int] = []

    @contextmanager
    def noted(total: int, *_: object, active: bool) -> Iterator[Callable[[int], None]]:
        yield done.append
        assert sum(done) == total

    context = small_context(tmp_path)
    (whole,) = [p for p in label_curve(context, [2], 7) if (p.features, p.classifier) == ("raw pixels", "kNN")]
    monkeypatch.setattr("simclr_dist.evaluation.label_curve.showing_progress", noted)
    monkeypatch.setattr("simclr_dist.evaluation.label_curve._SPLITS_AT_ONCE", 3)
    points = label_curve(context, [2], 7)
    assert done[:6] == [3, 3, 1, 3, 3, 1]
    assert whole in points


def test_the_table_has_the_deviation_of_every_mean():
    points = [Point("raw pixels", "kNN", 5, (0.5, 0.7), (0.4, 0.6), "centred", 5)]
    assert table(points).splitlines()[-1].split() == ["kNN,", "raw", "pixels", "60.0", "+-14.1"]
    assert "balanced accuracy" in table(points, balanced=True)
    assert points[0].as_dict()["std"] == pytest.approx(0.1414, abs=1e-4)


# --- the untrained encoder


def test_the_untrained_encoder_has_open_residual_branches_whatever_the_recipe_starts_with(tmp_path):
    context = small_context(tmp_path)
    assert context.recipe.encoder.zero_init_residual
    encoder = untrained_encoder(context.recipe, context.train)
    last_scales = [value for name, value in encoder.named_parameters() if name.endswith("bn2.weight")]
    assert last_scales
    assert all((scale == 1).all() for scale in last_scales)
