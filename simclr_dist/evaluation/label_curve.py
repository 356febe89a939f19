"""Accuracy against the number of labels: pretrained features, the same encoder untrained, and raw pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr_dist.build import build_method
from simclr_dist.config import Recipe
from simclr_dist.data.philox import Purpose, uniforms
from simclr_dist.data.sources import ImageSource, open_source
from simclr_dist.errors import UserError
from simclr_dist.evaluation.classifiers import Labels, knn_accuracy, probe_accuracy
from simclr_dist.evaluation.features import extract_features, raw_pixels, settle_statistics
from simclr_dist.models.encoder import Encoder

CLASSIFIERS = {"linear probe": probe_accuracy, "kNN": knn_accuracy}


@dataclass(frozen=True)
class Point:
    """Accuracy of one kind of features with one classifier at one number of labels."""

    features: str
    classifier: str
    labels_per_class: int
    accuracies: tuple[float, ...]
    """One for each split."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))


def label_curve(encoder: Encoder, recipe: Recipe, labels_per_class: Sequence[int], splits: int) -> list[Point]:
    """Every combination of features, classifier and number of labels, on the recipe's own held-out images.

    The images with labels of split number s depend on s alone, and fewer labels are a subset of more.

    Raises:
        UserError: the source has no labels, or a class has too few images.
    """
    train, test = open_source(recipe.data, "train"), open_source(recipe.data, "test")
    train_labels, test_labels = _labels(train), _labels(test)
    smallest = int(np.bincount(train_labels).min())
    if max(labels_per_class) > smallest:
        raise UserError(
            f"--labels: {max(labels_per_class)} labels a class, but a class has {smallest} images; ask fewer"
        )
    size = recipe.data.image_size
    untrained = build_method(recipe).encoder
    settle_statistics(untrained, train, size)
    kinds = {
        "pretrained": (extract_features(encoder, train, size), extract_features(encoder, test, size)),
        "untrained": (extract_features(untrained, train, size), extract_features(untrained, test, size)),
        "raw pixels": (raw_pixels(train, size), raw_pixels(test, size)),
    }
    points = []
    for name, (train_features, test_features) in kinds.items():
        for classifier, accuracy in CLASSIFIERS.items():
            for count in labels_per_class:
                chosen = [few_labels(train_labels, count, split) for split in range(splits)]
                values = [accuracy(train_features[c], train_labels[c], test_features, test_labels) for c in chosen]
                points.append(Point(name, classifier, count, tuple(values)))
    return points


def few_labels(labels: Labels, per_class: int, split: int) -> NDArray[np.int64]:
    """Indices of ``per_class`` images of each class, drawn for split number ``split``; ordered by class."""
    draw = uniforms(split, Purpose.LABELS, 0, np.arange(len(labels)), 0, 1)[:, 0]
    chosen = []
    for number in range(labels.max() + 1):
        members = np.flatnonzero(labels == number)
        chosen.append(members[np.argsort(draw[members], kind="stable")][:per_class])
    return np.concatenate(chosen)


def _labels(source: ImageSource) -> Labels:
    if source.labels is None:
        raise UserError("recipe.data: the images have no labels to evaluate with; sort them into one folder a class")
    return source.labels
