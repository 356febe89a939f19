"""Accuracy against the number of labels: pretrained features, the same encoder untrained, and raw pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simclr_dist.evaluation.classifiers import probe_accuracy
from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.features import extract_features, raw_pixels, settle_statistics
from simclr_dist.evaluation.knn import knn_accuracy
from simclr_dist.evaluation.subsets import few_labels
from simclr_dist.methods.build import build_encoder

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


def label_curve(context: EvaluationContext, labels_per_class: Sequence[int], splits: int) -> list[Point]:
    """Every combination of features, classifier and number of labels; on one process.

    The images with labels of split number s depend on s alone, and fewer labels are a subset of more.

    Raises:
        UserError: a class has too few images.
    """
    train, test, size = context.train, context.test, context.data.image_size
    context.refuse_more_than_there_are(max(labels_per_class))
    untrained = build_encoder(context.recipe)
    settle_statistics(untrained, train, size)
    how = replace(context.how, cache=None)
    kinds = {
        "pretrained": (np.asarray(context.train_features), np.asarray(context.test_features)),
        "untrained": tuple(extract_features(untrained, source, size, how) for source in (train, test)),
        "raw pixels": tuple(raw_pixels(source, size) for source in (train, test)),
    }
    points = []
    for name, (train_features, test_features) in kinds.items():
        for classifier, accuracy in CLASSIFIERS.items():
            for count in labels_per_class:
                chosen = [few_labels(context.train_labels, count, split) for split in range(splits)]
                values = [
                    accuracy(train_features[c], context.train_labels[c], test_features, context.test_labels)
                    for c in chosen
                ]
                points.append(Point(name, classifier, count, tuple(values)))
    return points
