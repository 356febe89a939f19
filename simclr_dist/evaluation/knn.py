"""Weighted nearest neighbours, block by block over both sides, so that a bank of millions needs no large matrix."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.evaluation.features import Features
from simclr_dist.evaluation.subsets import Labels

_BANK_ROWS, _TEST_ROWS = 16384, 1024


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
    train: Features,
    train_labels: Labels,
    test: Features,
    *,
    neighbours: int = 20,
    temperature: float = 0.1,
    device: torch.device | str = "cpu",
    distributed: bool = False,
) -> NDArray[np.float32]:
    """Votes for each class, shape (test images, classes).

    Cosine similarity; each of the ``neighbours`` nearest votes with exp(similarity / temperature) (Wu et al. 2018,
    section 3.4). With ``distributed`` every process calls this with the same arrays, searches its blocks of the bank,
    and gets the same result as one process alone.
    """
    rank, count = (process_rank(), process_count()) if distributed else (0, 1)
    bank = [
        (_unit(train[start : start + _BANK_ROWS], device), start)
        for start in range(rank * _BANK_ROWS, len(train), count * _BANK_ROWS)
    ]
    labels = torch.from_numpy(train_labels).to(device)
    classes, k = int(train_labels.max()) + 1, min(neighbours, len(train))
    found = []
    for start in range(0, len(test), _TEST_ROWS):
        rows = _unit(test[start : start + _TEST_ROWS], device)
        nearest = torch.full((len(rows), k), -torch.inf, device=device), torch.zeros(len(rows), k).to(labels)
        for block, first in bank:
            similarity, place = (rows @ block.T).topk(min(k, len(block)), dim=1)
            nearest = _best(k, [nearest[0], similarity], [nearest[1], place + first])
        if count > 1:
            nearest = _best(k, list(gather_stacked(nearest[0])), list(gather_stacked(nearest[1])))
        found.append(votes(nearest[0], labels[nearest[1]], classes, temperature).cpu())
    scores: NDArray[np.float32] = torch.cat(found).numpy()
    return scores


def votes(similarities: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Of the neighbours of n images, both (n, k): what each class gets, (n, classes)."""
    weights = torch.exp((similarities - 1) / temperature)
    return torch.einsum("nk,nkc->nc", weights, F.one_hot(labels, classes).to(weights.dtype))


def _best(k: int, similarities: list[Tensor], places: list[Tensor]) -> tuple[Tensor, Tensor]:
    similarity, order = torch.cat(similarities, 1).topk(k, dim=1)
    return similarity, torch.cat(places, 1).gather(1, order)


def _unit(features: Features, device: torch.device | str) -> Tensor:
    return F.normalize(torch.from_numpy(features).to(device), eps=1e-12)
