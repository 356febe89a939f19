"""Linear probes of many learning rates and layers, trained side by side over the same features.

As the linear evaluation of DINOv2's code (Oquab et al. 2023; dinov2/eval/linear.py): the features of a batch are
computed once, every probe takes its columns of them and a step at its own rate. There the validation images choose the
best; here training images that are held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.evaluation.feature_blocks import FeatureMatrix, Features
from simclr_dist.evaluation.protocol import LINEAR, Protocol
from simclr_dist.evaluation.subsets import Indices, Labels
from simclr_dist.evaluation.supervised import Classifier

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
"""The thirteen defaults of DINOv2's code, for 256 images; here of features whose mean square is about one."""
_NUMBERS_AT_ONCE = 10**7


@dataclass(frozen=True, kw_only=True)
class GridProtocol(Protocol):
    """The same for every probe but its learning rate; ``base_learning_rate`` is the largest."""

    shares_of_rate: tuple[float, ...]
    """Of each probe, ascending to 1."""

    @property
    def learning_rates(self) -> list[float]:
        """For 256 images."""
        return [float(f"{share * self.base_learning_rate:.6g}") for share in self.shares_of_rate]


GRID = GridProtocol(
    epochs=LINEAR.epochs,
    batch_images=LINEAR.batch_images,
    base_learning_rate=LEARNING_RATES[-1],
    shares_of_rate=tuple(float(f"{rate / LEARNING_RATES[-1]:.6g}") for rate in LEARNING_RATES),
)


class Probes(nn.Module):
    """Linear layers on columns (rows, columns): one for each choice of columns and learning rate.

    All rates of one choice are one matrix, so that a step is as many products as there are choices. A step of SGD
    without decay is linear in the gradient, so a probe's rate is a factor of its loss (:meth:`loss`).
    """

    scales: Tensor
    shares_of_rate: Tensor

    def __init__(
        self, chosen: Sequence[slice], scales: Tensor, shares_of_rate: Sequence[float], classes: int, seed: int
    ) -> None:
        """``scales``: (columns,), by which the columns are multiplied. All rates begin with the same weights, those of
        a :class:`Classifier` of that seed."""
        super().__init__()
        self.chosen, self.classes = list(chosen), classes
        self.rates, self.count = len(shares_of_rate), len(chosen) * len(shares_of_rate)
        self.register_buffer("scales", scales)
        self.register_buffer("shares_of_rate", torch.tensor(shares_of_rate).repeat(len(chosen)))
        self.layers = nn.ModuleList()
        for columns in self.chosen:
            first = Classifier(nn.Identity(), columns.stop - columns.start, classes, seed=seed).linear
            layer = nn.Linear(first.in_features, self.rates * classes)
            with torch.no_grad():
                layer.weight.copy_(first.weight.repeat(self.rates, 1))
            nn.init.zeros_(layer.bias)
            self.layers.append(layer)

    def forward(self, columns: Tensor) -> Tensor:
        """Logits (rows, probes, classes); the rates of the first choice, then those of the next."""
        scaled = columns * self.scales
        made = [layer(scaled[:, chosen]) for layer, chosen in zip(self.layers, self.chosen, strict=True)]
        logits: Tensor = torch.cat(made, dim=1).unflatten(1, (-1, self.classes))
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Each probe's mean cross-entropy times its share of the learning rate, summed."""
        weighted: Tensor = cross_entropies(logits, labels).mean(0) * self.shares_of_rate
        return weighted.sum()


class GridClassifier(Classifier):
    """A frozen body that makes columns, and :class:`Probes` on it."""

    linear: Probes  # type: ignore[assignment]

    def __init__(self, body: nn.Module, probes: Probes) -> None:
        super().__init__(body, 1, 1, frozen=True)
        self.linear = probes


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """(rows, probes) of logits (rows, probes, classes) and labels (rows,)."""
    return F.cross_entropy(logits.mT, labels[:, None].expand(-1, logits.shape[1]), reduction="none")


@dataclass(frozen=True)
class HeldOut:
    """What the probes of a grid made of training images that none of them learned from."""

    top1: list[float | None]
    """Of each probe; None: it diverged."""
    cross_entropy: list[float]

    @property
    def best(self) -> int | None:
        """Of the highest accuracy, of equals the one with the lowest cross-entropy; None: all diverged."""
        standing = [number for number, right in enumerate(self.top1) if right is not None]
        return max(standing, key=lambda number: (self.top1[number] or 0, -self.cross_entropy[number]), default=None)


@torch.inference_mode()
def judged(probes: Probes, columns: FeatureMatrix, rows: Indices, labels: Labels) -> HeldOut:
    """Ask all probes about the ``rows`` of a matrix, whose labels (rows,) are given.

    Each process takes its share of them, and every one gets all.
    """
    device = probes.scales.device
    at_once = max(1, _NUMBERS_AT_ONCE // (probes.count * probes.classes))
    sums = torch.zeros(2, probes.count, dtype=torch.float64, device=device)
    for start in range(0, len(rows), at_once)[process_rank() :: process_count()]:
        part = slice(start, start + at_once)
        logits = probes(torch.from_numpy(columns[rows[part]]).to(device))
        answers = torch.from_numpy(labels[part]).to(device)
        sums[0] += (logits.argmax(2) == answers[:, None]).sum(0)
        sums[1] += cross_entropies(logits, answers).double().sum(0)
    right, entropies = (gather_stacked(sums, label="answers of the probes").sum(0).cpu() / len(rows)).tolist()
    top1 = [share if np.isfinite(entropy) else None for share, entropy in zip(right, entropies, strict=True)]
    return HeldOut(top1, entropies)


@torch.inference_mode()
def scores_of_probe(probes: Probes, number: int, columns: FeatureMatrix) -> Features:
    """Logits (rows, classes) of one probe."""
    choice, rate = divmod(number, probes.rates)
    layer: Any = probes.layers[choice]
    chosen = probes.chosen[choice]
    own = slice(rate * probes.classes, (rate + 1) * probes.classes)
    parts = []
    for start in range(0, len(columns), 8192):
        rows = torch.from_numpy(columns[start : start + 8192]).to(probes.scales.device)
        scaled = (rows * probes.scales)[:, chosen]
        parts.append(F.linear(scaled, layer.weight[own], layer.bias[own]).cpu())
    scores: Features = torch.cat(parts).numpy()
    return scores
