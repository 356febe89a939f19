"""Numbers about features: alignment, uniformity, nearest neighbours, confusions, a map in two dimensions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.knn import votes
from simclr_dist.evaluation.subsets import Indices, Labels
from simclr_dist.reporting import Missing


def unit(features: Features) -> Features:
    """Each row at length 1."""
    rows: Features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), np.float32(1e-12))
    return rows


def alignment(first: Features, second: Features) -> float:
    """Mean squared distance of the two views of an image on the unit sphere (Wang and Isola 2020, 4.1, alpha = 2)."""
    return float((np.square(unit(first) - unit(second), dtype=np.float64)).sum(1).mean())


def uniformity(features: Features) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs of images on the unit sphere (Wang and Isola 2020, 4.1, t = 2).

    0 when all features are the same; about -4 when they fill a sphere of many dimensions.
    """
    rows = unit(features).astype(np.float64)
    above = np.triu_indices(len(rows), 1)
    squared = np.maximum(2 - 2 * (rows @ rows.T)[above], 0)
    return float(np.log(np.exp(-2 * squared).mean()))


class Neighbours(NamedTuple):
    """Nearest first; both of shape (images, k)."""

    indices: Indices
    similarities: Features


def nearest(bank: Features, queries: Features, k: int, *, same: bool = False, rows: int = 512) -> Neighbours:
    """The ``k`` images of the bank with the most similar features (cosine), fewer when it is small.

    ``same``: the queries are the bank, and an image is not its own neighbour.
    """
    k = min(k, len(bank) - same)
    if k < 1:
        raise Missing("There are too few images to find neighbours among.")
    bank_rows, found = unit(bank), []
    for start in range(0, len(queries), rows):
        similarity = unit(queries[start : start + rows]) @ bank_rows.T
        if same:
            similarity[np.arange(len(similarity)), start + np.arange(len(similarity))] = -np.inf
        indices = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        found.append((indices, np.take_along_axis(similarity, indices, axis=1)))
    return Neighbours(np.concatenate([i for i, _ in found]), np.concatenate([s for _, s in found]))


def vote(neighbours: Neighbours, bank_labels: Labels, classes: int, temperature: float = 0.1) -> Labels:
    """The class of each query: neighbours vote with exp(similarity / temperature) (Wu et al. 2018, section 3.4)."""
    labels = torch.from_numpy(bank_labels[neighbours.indices])
    chosen: Labels = votes(torch.from_numpy(neighbours.similarities), labels, classes, temperature).argmax(1).numpy()
    return chosen


def feature_map(features: Features) -> Features:
    """Positions in the plane, shape (images, 2): PCA to 50 dimensions, then t-SNE, both with a fixed seed."""
    if len(features) < 8:
        raise Missing(f"A map needs 8 images at least, and there are {len(features)}.")
    if np.ptp(unit(features), axis=0).max() < 1e-6:
        raise Missing("All images have the same features, so there is no map to draw: the encoder has collapsed.")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    fewer = PCA(min(50, *features.shape), random_state=0, svd_solver="full").fit_transform(unit(features))
    perplexity = min(30.0, (len(features) - 1) / 3)
    with _threads_said():
        positions: Features = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(fewer)
    return positions


@contextmanager
def _threads_said() -> Iterator[None]:
    """Inside, scikit-learn counts no physical cores, which prints a traceback where the system does not tell them."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(os.cpu_count() or 1)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
