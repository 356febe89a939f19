"""Logistic regression on frozen features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.subsets import Indices, Labels, halves
from simclr_dist.log import log

INVERSE_L2 = tuple(10.0**power for power in range(-4, 5))
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Probe:
    """A linear probe and how its L2 was chosen."""

    model: LogisticRegression
    inverse_l2: float
    """scikit-learn's C."""
    validation: dict[float, float]
    """Accuracy on the held-out training images for each C."""
    held_out: Indices
    """Which of the training images these were."""

    def scores(self, features: Features) -> NDArray[np.float64]:
        """Class probabilities, (images, classes); classes without training images get 0."""
        found = self.model.predict_proba(features)
        scores = np.zeros((len(features), int(self.model.classes_.max()) + 1))
        scores[:, self.model.classes_] = found
        return scores


def probe_accuracy(train: Features, train_labels: Labels, test: Features, test_labels: Labels) -> float:
    """Share of test images that a linear probe gets right: multinomial logistic regression with L2, C = 1.

    The features are taken as they are: standardising them costs raw pixels nine points at one label a class on the
    digits (their border hardly varies) and would flatter the encoder by that.
    """
    return float(LogisticRegression(C=1.0, max_iter=2000).fit(train, train_labels).score(test, test_labels))


def chosen_probe(features: Features, labels: Labels, seed: int = 0, inverse_l2: Sequence[float] = INVERSE_L2) -> Probe:
    """Multinomial logistic regression to convergence, on all the images given.

    C is the one with the highest accuracy on a fifth of each class held out, of equals the one with the lowest
    cross-entropy there (few held-out images tie often); then all images are fitted.
    With one image a class there is nothing to hold out: C = 1. Features are taken as they are.
    """
    fit, held_out = halves(labels, VALIDATION_SHARE, seed)
    validation: dict[float, tuple[float, float]] = {}
    if len(held_out):
        for value in inverse_l2:
            model = _logistic(value).fit(features[fit], labels[fit])
            likely = model.predict_proba(features[held_out])
            right = model.classes_[likely.argmax(1)] == labels[held_out]
            loss = log_loss(labels[held_out], likely, labels=model.classes_)
            validation[value] = float(right.mean()), -float(loss)
    best = max(validation, key=lambda value: validation[value]) if validation else 1.0
    model = _logistic(best).fit(features, labels)
    if model.n_iter_.max() >= model.max_iter:
        log.warning("logistic regression with C = %g had not converged after %d iterations", best, model.max_iter)
    return Probe(model, best, {value: found[0] for value, found in validation.items()}, held_out)


def _logistic(inverse_l2: float) -> LogisticRegression:
    return LogisticRegression(C=inverse_l2, max_iter=5000)


def top_accuracies(scores: NDArray[Any], labels: Labels) -> tuple[float, float | None]:
    """Top-1 and top-5 accuracy of scores (images, classes); None for the second with five classes or fewer."""
    top1 = float((scores.argmax(1) == labels).mean())
    if scores.shape[1] <= 5:
        return top1, None
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return top1, float((best == labels[:, None]).any(1).mean())
