"""Accuracy against the number of labels: pretrained features, the same encoder untrained, and raw pixels.

Each kind of features is given to each classifier in every form of :mod:`simclr_dist.evaluation.forms` and with every
strength of the classifier; which of them counts is chosen on training images that are held out, for all kinds alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from simclr_dist.evaluation.classifiers import VALIDATION_SHARE, balanced_accuracy
from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.features import extract_features, raw_pixels
from simclr_dist.evaluation.forms import FORMS, forms
from simclr_dist.evaluation.knn import knn_votes
from simclr_dist.evaluation.logistic import regression_path
from simclr_dist.evaluation.subsets import Indices, Labels, few_labels, halves
from simclr_dist.evaluation.untrained import untrained_encoder
from simclr_dist.models.image_sides import take_images
from simclr_dist.progress_bar import showing_progress

USUAL_COUNTS = (1, 2, 5, 10, 50)
_MOST_HELD_OUT, _MOST_LABELLED = 2000, 1000
_NUMBERS_AT_ONCE, _SPLITS_AT_ONCE = 10**8, 250

Answers = Iterator[NDArray[np.int64]]
"""The classes that are answered, (splits, images), for each strength."""


@dataclass(frozen=True)
class Point:
    """Accuracy of one kind of features with one classifier at one number of labels."""

    features: str
    classifier: str
    labels_per_class: int
    accuracies: tuple[float, ...]
    """One for each split."""
    balanced: tuple[float, ...]
    """Likewise, the mean over the classes of the share that is right."""
    form: str
    """Of the features: as they are, centred, whitened."""
    strength: float
    """Of the classifier: scikit-learn's C times the features' variance, or the number of neighbours."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float:
        """Over the splits, with n - 1; 0 for one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "mean": self.mean, "std": self.std}


def _probes(
    train: Features, labels: Labels, drawn: Sequence[Indices], asked: Features, strengths: Sequence[float]
) -> Answers:
    """Logistic regression; each strength is C."""
    part, classes, queries = np.stack(drawn), int(labels.max()) + 1, torch.from_numpy(asked)
    for models in regression_path(torch.from_numpy(train[part]), torch.from_numpy(labels[part]), classes, strengths):
        yield models.scores(queries).argmax(2).numpy()


def _variance(train: Features) -> float:
    return float(np.square(train - train.mean(0)).sum(1).mean()) or 1.0


def _neighbours(
    train: Features, labels: Labels, drawn: Sequence[Indices], asked: Features, strengths: Sequence[float]
) -> Answers:
    """Nearest neighbours by cosine similarity, as many as each strength."""
    found = [knn_votes(train[part], labels[part], asked, [int(strength) for strength in strengths]) for part in drawn]
    for each in zip(*found, strict=True):
        yield torch.stack([scores.argmax(1) for scores in each]).numpy()


class _Classifier(NamedTuple):
    answers: Callable[[Features, Labels, Sequence[Indices], Features, Sequence[float]], Answers]
    strengths: tuple[float, ...]
    usual: float
    """Where there is nothing to choose on."""
    unit: Callable[[Features], float] = lambda train: 1.0
    """What strengths are divided by: for C the features' variance, so that their scale plays no part."""


CLASSIFIERS = {
    "linear probe": _Classifier(_probes, (0.1, 1.0, 10.0, 100.0, 1000.0), 100.0, _variance),
    "kNN": _Classifier(_neighbours, (1, 5, 20), 20),
}


def label_curve(context: EvaluationContext, labels_per_class: Sequence[int] | None, splits: int) -> list[Point]:
    """Every combination of features, classifier and number of labels; on one process.

    The images with labels of split number s depend on s alone, and fewer labels are a subset of more. ``None``: 1, 2,
    5, 10, 50, as far as every class has them.

    Raises:
        UserError: a class has too few images.
    """
    counts = context.numbers_of_labels(labels_per_class, USUAL_COUNTS)
    kinds = _kinds(context)
    points: list[Point] = []
    fits = sum(_draws(context, count, splits) + splits for count in counts)
    with showing_progress(
        len(kinds) * len(FORMS) * len(CLASSIFIERS) * fits, "fits", "label curve", active=context.how.talks
    ) as advance:
        for name, features in kinds.items():
            points += _points(context, name, features, counts, splits, advance)
    return points


def _kinds(context: EvaluationContext) -> dict[str, tuple[Features, Features]]:
    train, test, size = context.train, context.test, context.data.image_size
    untrained = untrained_encoder(context.recipe, train)
    take_images(untrained, size)
    how = replace(context.how, cache=None, label="untrained")
    pixels = replace(how, label="raw pixels")
    return {
        "pretrained": (np.asarray(context.train_features), np.asarray(context.test_features)),
        "untrained": (extract_features(untrained, train, size, how), extract_features(untrained, test, size, how)),
        "raw pixels": (raw_pixels(train, size, pixels), raw_pixels(test, size, pixels)),
    }


def _points(
    context: EvaluationContext,
    name: str,
    features: tuple[Features, Features],
    counts: Sequence[int],
    splits: int,
    advance: Callable[[int], None],
) -> list[Point]:
    labels, right = context.train_labels, context.test_labels
    fit, held_out = halves(labels, VALIDATION_SHARE, split=0)
    held_out = held_out[:: -(-len(held_out) // _MOST_HELD_OUT) or 1]
    best: dict[tuple[str, int], tuple[float, Point]] = {}
    for form, train, test in forms(*features):
        for group, (answers, strengths, usual, unit) in CLASSIFIERS.items():
            scale = unit(train)
            for count in counts:
                draws = _draws(context, count, splits)
                if (form, group) == ("centred", "linear probe"):  # the intercept makes it the same as before
                    advance(draws + splits)
                    continue
                strength, validation = usual, 0.0
                numbers = count * context.classes * train.shape[1]
                hits = np.zeros(len(strengths), dtype=np.int64)
                for block in _blocks(draws, numbers):
                    if len(held_out):
                        drawn = [fit[few_labels(labels[fit], count, split)] for split in block]
                        found = answers(train, labels, drawn, train[held_out], [each / scale for each in strengths])
                        hits += [np.count_nonzero(each == labels[held_out]) for each in found]
                    advance(len(block))
                for each, number in zip(strengths, hits, strict=True):
                    if (accuracy := number / max(1, draws * len(held_out))) > validation:
                        strength, validation = each, float(accuracy)
                if (group, count) in best and validation <= best[group, count][0]:
                    advance(splits)
                    continue
                shares: list[float] = []
                balanced: list[float] = []
                for block in _blocks(splits, numbers):
                    drawn = [few_labels(labels, count, split) for split in block]
                    (answered,) = answers(train, labels, drawn, test, [strength / scale])
                    shares += [float((each == right).mean()) for each in answered]
                    balanced += [balanced_accuracy(each, right) for each in answered]
                    advance(len(block))
                point = Point(name, group, count, tuple(shares), tuple(balanced), form, strength)
                best[group, count] = (validation, point)
    return [best[group, count][1] for group in CLASSIFIERS for count in counts]


def _draws(context: EvaluationContext, count: int, splits: int) -> int:
    """Of the labels, to choose on."""
    return min(splits, max(1, _MOST_LABELLED // (count * context.classes)))


def _blocks(splits: int, numbers: int) -> Iterator[range]:
    """The splits that are learned together; the features that each learns from are so many ``numbers``."""
    at_once = min(_SPLITS_AT_ONCE, max(1, _NUMBERS_AT_ONCE // numbers))
    for start in range(0, splits, at_once):
        yield range(start, min(start + at_once, splits))
