"""Classifiers on frozen features: scikit-learn's logistic regression, and weighted nearest neighbours."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def probe_accuracy(train: Features, train_labels: Labels, test: Features, test_labels: Labels) -> float:
    """Share of test images that a linear probe gets right: multinomial logistic regression with L2, C = 1.

    The features are taken as they are: standardising them costs raw pixels nine points at one label a class on the
    digits (their border hardly varies) and would flatter the encoder by that.
    """
    return float(LogisticRegression(C=1.0, max_iter=2000).fit(train, train_labels).score(test, test_labels))


def knn_accuracy(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    neighbours: int = 20,
    temperature: float = 0.1,
) -> float:
    """Share of test images that weighted nearest neighbours get right.

    Cosine similarity; each of the ``neighbours`` nearest votes with exp(similarity / temperature) (Wu et al. 2018,
    section 3.4).
    """
    similarity = _unit(test) @ _unit(train).T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
    votes = np.exp((np.take_along_axis(similarity, nearest, axis=1) - 1) / temperature)
    scores = np.stack([(votes * (train_labels[nearest] == c)).sum(1) for c in range(train_labels.max() + 1)], axis=1)
    return float((scores.argmax(1) == test_labels).mean())


def _unit(features: Features) -> Features:
    unit: Features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.float32(1e-12))
    return unit
