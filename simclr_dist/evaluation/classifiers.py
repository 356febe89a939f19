"""Logistic regression on frozen features, and what scores say about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.logistic import LinearModels, regression_path
from simclr_dist.evaluation.saved_training import Accuracies
from simclr_dist.evaluation.subsets import Indices, Labels, halves
from simclr_dist.progress_bar import showing_progress

INVERSE_L2 = tuple(10.0**power for power in range(-4, 5))
VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Probe:
    """A linear probe and how its L2 was chosen."""

    model: LinearModels
    classes: NDArray[np.int64]
    """The labels that it knows."""
    inverse_l2: float
    """scikit-learn's C."""
    validation: dict[float, float]
    """Accuracy on the held-out training images for each C."""
    held_out: Indices
    """Which of the training images these were."""

    def scores(self, features: Features) -> NDArray[np.float64]:
        """Class probabilities, (images, classes); classes without training images get 0."""
        rows = torch.from_numpy(features).to(self.model.weight.device)
        scores = np.zeros((len(features), int(self.classes.max()) + 1))
        scores[:, self.classes] = torch.softmax(self.model.scores(rows)[0], 1).cpu().numpy()
        return scores


def chosen_probe(
    features: Features,
    labels: Labels,
    seed: int = 0,
    inverse_l2: Sequence[float] = INVERSE_L2,
    *,
    device: torch.device | str = "cpu",
    talks: bool = False,
) -> Probe:
    """Multinomial logistic regression to convergence, on all the images given, of two classes at least.

    C is the one with the highest accuracy on a fifth of each class held out, of equals the one with the lowest
    cross-entropy there (few held-out images tie often); then all images are fitted.
    With one image a class there is nothing to hold out: C = 1. Features are taken as they are. All is computed in
    float64 on ``device``: of 60,000 images a GPU takes seconds for what a CPU's core takes minutes.
    """
    classes, numbers = np.unique(labels, return_inverse=True)
    rows, targets = (torch.from_numpy(each).to(device) for each in (features, numbers))
    fit, held_out = halves(labels, VALIDATION_SHARE, seed)
    validation: dict[float, tuple[float, float]] = {}
    with showing_progress(len(inverse_l2) + 1, "fits", "probe", active=talks) as advance:
        if len(held_out):
            asked, answers = rows[held_out], targets[held_out]
            path = regression_path(rows[fit][None], targets[fit][None], len(classes), inverse_l2)
            for value, model in zip(inverse_l2, path, strict=True):
                scores = model.scores(asked)[0]
                right = (scores.argmax(1) == answers).double().mean()
                validation[value] = float(right), -float(F.cross_entropy(scores, answers))
                advance(1)
        best = max(validation, key=lambda value: validation[value]) if validation else 1.0
        model = next(regression_path(rows[None], targets[None], len(classes), [best]))
        advance(1)
    return Probe(model, classes, best, {value: found[0] for value, found in validation.items()}, held_out)


def accuracies(scores: NDArray[Any], labels: Labels) -> Accuracies:
    """Top-1, top-5 (None with five classes or fewer) and balanced accuracy of scores (images, classes).

    A class at -inf is no answer, though it may stand among the best five.
    """
    chosen = scores.argmax(1)
    top1, balanced = float((chosen == labels).mean()), balanced_accuracy(chosen, labels)
    if scores.shape[1] <= 5:
        return top1, None, balanced
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    answered = np.take_along_axis(scores, best, 1) > -np.inf
    return top1, float(((best == labels[:, None]) & answered).any(1).mean()), balanced


def balanced_accuracy(chosen: NDArray[np.int64], labels: Labels) -> float:
    """The mean over the classes that are asked about of the share of each that is right."""
    asked = np.bincount(labels)
    right = np.bincount(labels[chosen == labels], minlength=len(asked))
    return float((right[asked > 0] / asked[asked > 0]).mean())
