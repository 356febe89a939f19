"""Online evaluation: the encoder is evaluated while it trains, without touching the trajectory.

The images come from the labelled training images alone: part of them is the bank, others are asked about. Test images
are never seen, so nobody can choose a recipe or a checkpoint on them by watching these curves. Where pretraining uses
the same images the figures are a little optimistic, and more where its method is shown their labels.
"""

import numpy as np
import torch

from simclr_dist.config import Machine, Recipe
from simclr_dist.data.sources.base import Subset
from simclr_dist.data.sources.named import open_source
from simclr_dist.errors import UserError
from simclr_dist.evaluation.feature_blocks import Features
from simclr_dist.evaluation.features import Extraction, extract_features, reading_workers
from simclr_dist.evaluation.knn import knn_accuracy
from simclr_dist.evaluation.subsets import Labels, halves, labels_of, share_of_labels
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.precision import AUTOCAST

MOST_IMAGES = 25_000
HELD_OUT_SHARE = 0.2


class OnlineEvaluation:
    """kNN and a linear head on fixed labelled training images, machine.evaluate_every_epochs; every process makes one.

    Images are read and features computed as in training: by as many loader workers, in the kernels' half precision.
    """

    def __init__(
        self, recipe: Recipe, machine: Machine, steps_per_epoch: int, device: torch.device, *, cores: int = 1
    ) -> None:
        """Choose the images; with machine.evaluate_every_epochs 0 nothing is opened and nothing done.

        ``cores`` are this process's own.

        Raises:
            UserError: the labelled training images cannot be read, or there are none.
        """
        self.every_steps = machine.evaluate_every_epochs * steps_per_epoch
        if not self.every_steps:
            return
        self.image_size = recipe.data.image_size
        try:
            source = open_source(recipe.data, machine.shards, "train")
            labels = labels_of(source)
        except UserError as error:
            raise UserError(f"machine.evaluate_every_epochs: needs labels: {error}; set it to 0 without") from error
        if len(np.unique(labels)) < 2:
            raise UserError("machine.evaluate_every_epochs: all labelled images are of one class; set it to 0")
        if len(source) > MOST_IMAGES:
            source = Subset(source, share_of_labels(labels, MOST_IMAGES / len(source), split=0))
        bank, queries = halves(labels_of(source), HELD_OUT_SHARE, split=0)
        if not len(queries):
            raise UserError("machine.evaluate_every_epochs: needs two labelled images of a class; set it to 0")
        self.images = Subset(source, np.concatenate((bank, queries)))
        self.bank = len(bank)
        self.how = Extraction(
            device=device,
            autocast=AUTOCAST.get(machine.precision),
            workers=reading_workers(machine.loader_workers, cores, len(self.images)),
            # As pretraining, which draws others in their place: one bad file of a million must not end a run.
            leaves_out_broken=True,
        )

    def after_step(self, steps_done: int, encoder: Encoder) -> dict[str, float]:
        """``online_knn_top1`` and ``online_linear_top1`` when it is time, else nothing. Every process calls it.

        Images that cannot be read are left out; when nothing is left (or no feature is a number), nothing is said.
        """
        if not self.every_steps or steps_done % self.every_steps:
            return {}
        features = extract_features(encoder, self.images, self.image_size, self.how)
        labels, whole = labels_of(self.images), np.isfinite(features).all(axis=1)
        bank = np.arange(len(features)) < self.bank
        parts = (features[whole & bank], labels[whole & bank], features[whole & ~bank], labels[whole & ~bank])
        if not len(parts[0]) or not len(parts[2]):
            return {}
        return {"online_knn_top1": knn_accuracy(*parts), "online_linear_top1": least_squares_accuracy(*parts)}


def least_squares_accuracy(train: Features, train_labels: Labels, test: Features, test_labels: Labels) -> float:
    """Share of test images that a linear head gets right whose weights are fitted by regularised least squares.

    Features are centred; the ridge is a thousandth of their mean variance. One equation, no iterations: for an
    encoder while it trains.
    """
    centre = train.mean(0, dtype=np.float64)
    rows = train - centre
    targets = np.eye(train_labels.max() + 1)[train_labels]
    gram = rows.T @ rows
    gram[np.diag_indices_from(gram)] += max(1e-3 * np.trace(gram) / len(gram), 1e-12)
    weights = np.linalg.solve(gram, rows.T @ (targets - targets.mean(0)))
    scores = (test - centre) @ weights + targets.mean(0)
    return float((scores.argmax(1) == test_labels).mean())
