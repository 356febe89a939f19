"""Weighted nearest neighbours, block by block over both sides, so that a bank of millions needs no large matrix."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.evaluation.feature_blocks import FeatureMatrix, Features
from simclr_dist.evaluation.subsets import Indices, Labels
from simclr_dist.progress_bar import showing_progress

Blocks = Iterable[tuple[Indices, Features]]
"""(numbers of images (r,), their features (r, d)), block by block."""
_BANK_ROWS, _TEST_ROWS, _VOTING_ROWS = 16384, 1024, 128


def knn_accuracy(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    neighbours: int = 20,
    temperature: float = 0.1,
) -> float:
    """Share of test images that weighted nearest neighbours get right."""
    scores = knn_scores(train, train_labels, test, neighbours=neighbours, temperature=temperature)
    return float((scores.argmax(1) == test_labels).mean())


@torch.inference_mode()
def knn_scores(
    train: FeatureMatrix,
    train_labels: Labels,
    test: FeatureMatrix,
    *,
    neighbours: int = 20,
    temperature: float = 0.1,
    device: torch.device | str = "cpu",
    distributed: bool = False,
    talks: bool = False,
) -> NDArray[np.float32]:
    """Votes for each class, shape (test images, classes).

    Cosine similarity; each of the ``neighbours`` nearest votes with exp(similarity / temperature) (Wu et al. 2018,
    section 3.4), as a share of the nearest one's vote. With ``distributed`` every process calls this with the same
    arrays, searches its blocks of the bank, and gets the same result as one process alone. Both sides are read and
    normalised a block at a time, so the memory needed beside them is that of the votes and of one block.
    """
    rank, count = (process_rank(), process_count()) if distributed else (0, 1)
    labels = torch.from_numpy(train_labels).to(device)
    classes, k = int(train_labels.max()) + 1, min(neighbours, len(train))
    starts = range(rank * _BANK_ROWS, len(train), count * _BANK_ROWS)
    with showing_progress(len(starts) * len(test), "searches", "kNN", active=talks) as advance:
        blocks = ((np.arange(n, min(n + _BANK_ROWS, len(train))), train[n : n + _BANK_ROWS]) for n in starts)
        similarities, indices = nearest_rows(blocks, test, k, device, advance)
    scores = np.empty((len(test), classes), dtype=np.float32)
    for rows in _slices(len(test), _VOTING_ROWS):
        nearest = similarities[rows], indices[rows]
        if count > 1:
            nearest = _best(k, list(gather_stacked(nearest[0])), list(gather_stacked(nearest[1])))
        scores[rows] = votes(nearest[0], labels[nearest[1]], classes, temperature).cpu()
    return scores


@torch.inference_mode()
def nearest_rows(
    bank: Blocks,
    queries: FeatureMatrix,
    k: int,
    device: torch.device | str = "cpu",
    advance: Callable[[int], object] = lambda searched: None,
) -> tuple[Tensor, Tensor]:
    """(cosine similarities, numbers) of the ``k`` nearest of a bank for each query, nearest first, both (queries, k).

    Both sides are read a block at a time. ``advance`` is called with the number of queries that met a block. Where the
    bank is smaller than ``k`` the rest is number 0 at -inf.
    """
    similarities = torch.full((len(queries), k), -torch.inf, device=device)
    indices = torch.zeros(len(queries), k, dtype=torch.int64, device=device)
    for numbers, features in bank:
        block, number_of = _unit(features, device), torch.from_numpy(numbers).to(device)
        for rows in _slices(len(queries), _TEST_ROWS):
            similarity, index = (_unit(queries[rows], device) @ block.T).topk(min(k, len(block)), dim=1)
            similarities[rows], indices[rows] = _best(
                k, [similarities[rows], similarity], [indices[rows], number_of[index]]
            )
            advance(len(similarity))
    return similarities, indices


@torch.inference_mode()
def knn_votes(
    train: Features, labels: Labels, test: Features, neighbours: Sequence[int], temperature: float = 0.1
) -> list[Tensor]:
    """As :func:`knn_scores` for each number of neighbours, of a few images, which are compared once."""
    similarity, index = (_unit(test, "cpu") @ _unit(train, "cpu").T).topk(min(max(neighbours), len(train)), dim=1)
    nearest, classes = torch.from_numpy(labels)[index], int(labels.max()) + 1
    return [votes(similarity[:, :k], nearest[:, :k], classes, temperature) for k in neighbours]


def votes(similarities: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Of the neighbours of n images, both (n, k): what each class gets, (n, classes).

    A weight is exp(similarity / temperature) as a share of that of the image's nearest neighbour: whatever the
    temperature, that one has 1, and an image's votes never are all too small for a float32.
    """
    weights = torch.exp((similarities - similarities.amax(1, keepdim=True)) / temperature)
    return torch.einsum("nk,nkc->nc", weights, F.one_hot(labels, classes).to(weights.dtype))


def _best(k: int, similarities: list[Tensor], indices: list[Tensor]) -> tuple[Tensor, Tensor]:
    similarity, order = torch.cat(similarities, 1).topk(k, dim=1)
    return similarity, torch.cat(indices, 1).gather(1, order)


def _slices(rows: int, at_once: int) -> list[slice]:
    return [slice(start, start + at_once) for start in range(0, rows, at_once)]


def _unit(features: Features, device: torch.device | str) -> Tensor:
    return F.normalize(torch.from_numpy(features).to(device), eps=1e-12)
