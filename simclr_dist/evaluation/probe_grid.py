"""``evaluate RUN probe --grid``: the best of many probes, chosen on training images that none of them learned from.

Every process calls it and gets the result.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from simclr_dist.data.sources.base import Subset
from simclr_dist.errors import AgreedError
from simclr_dist.evaluation.classifiers import accuracies
from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.feature_blocks import FeatureMatrix
from simclr_dist.evaluation.features import feature_matrix
from simclr_dist.evaluation.image_batches import cropped_and_flipped, features_as_they_are
from simclr_dist.evaluation.probe_inputs import LayerColumns, scales
from simclr_dist.evaluation.probes import GRID, GridClassifier, Probes, judged, scores_of_probe
from simclr_dist.evaluation.results import Result, ResultRow, accuracy_columns
from simclr_dist.evaluation.saved_training import Accuracies
from simclr_dist.evaluation.subsets import Indices, halves, subset_digest
from simclr_dist.evaluation.supervised import steps_of, total_steps, train_classifier

HELD_OUT_SHARE = 0.1
_MOST_SCALED = 256


@dataclass(frozen=True, kw_only=True)
class GridResult(Result):
    """The best probe of a grid, with the grid in its row's ``details``."""

    def table(self) -> str:
        """Accuracy of every probe on the held-out training images, and of the best one on the test images."""
        found = self.rows[0].details
        asked = f"{found['held_out_images']} held-out"
        width = max(len(name) for name in (asked, *found["inputs"])) + 2
        rates = "".join(f"{rate:>8.2g}" for rate in found["learning_rates"])
        lines = [f"{asked:<{width}}{rates}"]
        for name, row in zip(found["inputs"], found["held_out_top1"], strict=True):
            cells = [f"{100 * value:.2f}" if value is not None else "-" for value in row]
            lines.append(f"{name:<{width}}{''.join(f'{cell:>8}' for cell in cells)}")
        lines.append(f"best: {found['input']}, learning rate {found['learning_rate']:g}{_at_the_edge(found)}")
        return "\n".join([*lines, "", super().table()])


def _at_the_edge(found: dict[str, Any]) -> str:
    rates, best = found["learning_rates"], found["learning_rate"]
    if best not in (rates[0], rates[-1]):
        return ""
    which, way, shown = ("smallest", "lower", rates[-1] / 10) if best == rates[0] else ("largest", "raise", best * 10)
    return f", the {which} of the grid: {way} it with --learning-rate {shown:g}"


def probe_grid(
    context: EvaluationContext,
    *,
    augment: bool = False,
    epochs: int | None = None,
    batch_images: int | None = None,
    base_learning_rate: float | None = None,
    precision: str | None = None,
    seed: int = 0,
) -> GridResult:
    """Probes of 13 learning rates for every choice of layers and pooling, by SGD as ``probe``'s, over one pass.

    All learn from nine tenths of each class; the one with most right on the other tenth is asked about the test images,
    as it is.

    Args:
        context: the encoder and the images.
        augment: on features of random crops and flips, computed anew each epoch; otherwise on those of the centre
            crops, computed once.
        epochs: None: 90.
        batch_images: None: 4096. No more than there are images.
        base_learning_rate: the largest, for 256 images, of features whose mean square is one; None: 0.1.
        precision: of the kernels while training, ``float32`` (None) or ``bfloat16``.
        seed: of the held-out images, the order of the others, their crops and the initial weights.

    Raises:
        UserError: the processes cannot share a batch, no class has two images, or all probes diverged.
        TrainingStoppedError: a signal stopped a training that is saved (``context.unfinished``).
    """
    protocol = GRID.with_choices(
        epochs=epochs, batch_images=batch_images, base_learning_rate=base_learning_rate, precision=precision
    )
    fit, held_out = halves(context.train_labels, HELD_OUT_SHARE, seed)
    if not len(held_out):
        raise AgreedError("--grid: no class has two training images, so none can be held out to choose a probe on")
    columns = _Columns(context, augment)
    inputs, order = columns.body.inputs(), steps_of(protocol, len(fit), seed)
    some = fit[np.linspace(0, len(fit) - 1, min(len(fit), _MOST_SCALED)).astype(np.int64)]
    matrix, rows = columns.of_train(some)
    scaled = scales(torch.from_numpy(matrix[rows]), columns.body.parts())
    probes = Probes([each.columns for each in inputs], scaled, protocol.shares_of_rate, context.classes, seed)
    classifier = GridClassifier(columns.body if augment else nn.Identity(), probes)
    saved = context.saved_training("probe_grid", classifier, protocol, order, fit)
    found: _Found | None = saved.kept("grid")
    if found is None:
        how = context.how
        if augment:
            recipe, pinned = replace(context.recipe, data=context.data), how.device.type == "cuda"
            chosen = Subset(context.train, fit)
            batches = cropped_and_flipped(chosen, recipe, order, workers=how.workers, pin_memory=pinned)
        else:
            batches = features_as_they_are(columns.train, context.train_labels, order, among=fit)
        train_classifier(
            classifier, protocol, order, batches, how.device, loss=probes.loss, may_diverge=True,
            label=f"{len(inputs)} x {probes.rates} probes", talks=how.talks, saved=saved,
        )  # fmt: skip
        found = _asked(context, probes, columns, held_out)
        saved.keep({"grid": found}, total_steps(protocol, order))
    choice, rate = divmod(found["best"], probes.rates)
    details = {
        "input": inputs[choice].name,
        "learning_rate": protocol.learning_rates[rate],
        "inputs": [each.name for each in inputs],
        "columns": [each.columns.stop - each.columns.start for each in inputs],
        "learning_rates": protocol.learning_rates,
        "held_out_top1": [
            found["top1"][first : first + probes.rates] for first in range(0, probes.count, probes.rates)
        ],
        "held_out_images": len(held_out),
        "held_out_sha256": subset_digest(held_out),
    }
    top1, top5, balanced = found["accuracies"]
    row = ResultRow(
        name="linear probe, best of the grid",
        labels=f"{100 * len(fit) / len(context.train):.0f} %",
        images=len(fit),
        **accuracy_columns([(top1, top5, balanced)]),
        subsets_sha256=(subset_digest(fit),),
        details=details,
    )
    choices = {"solver": "sgd", "grid": True, "augment": augment, **asdict(protocol), "held_out_share": HELD_OUT_SHARE}
    choices |= {"batch_images": order.global_batch_images, "steps_per_epoch": order.steps_per_epoch, "seed": seed}
    return GridResult(**vars(context.result("probe", choices, [row])))


class _Found(TypedDict):
    """What a grid came to: plain data, kept until the result is written."""

    top1: list[float | None]
    """Of each probe on the held-out images; None: it diverged."""
    best: int
    accuracies: Accuracies
    """Of the best on the test images."""


class _Columns:
    """Columns of centre crops: of all training images, kept, where every epoch takes these."""

    def __init__(self, context: EvaluationContext, augment: bool) -> None:
        self._context, self._size, self._kept = context, context.data.image_size, not augment
        self._how = context.how if self._kept else replace(context.how, cache=None)
        self.body = LayerColumns(context.pretrained.encoder, self._size)

    @cached_property
    def train(self) -> FeatureMatrix:
        return feature_matrix(self.body, self._context.train, self._size, self._how)

    def of_train(self, numbers: Indices) -> tuple[FeatureMatrix, Indices]:
        """A matrix and its rows that are the training images ``numbers``."""
        if self._kept:
            return self.train, numbers
        part = Subset(self._context.train, numbers)
        return feature_matrix(self.body, part, self._size, self._how), np.arange(len(numbers))

    def of_test(self) -> FeatureMatrix:
        return feature_matrix(self.body, self._context.test, self._size, self._how)


def _asked(context: EvaluationContext, probes: Probes, columns: _Columns, held_out: Indices) -> _Found:
    """All probes about the held-out images, then the best of them about the test images."""
    found = judged(probes, *columns.of_train(held_out), context.train_labels[held_out])
    if found.best is None:
        raise AgreedError("--learning-rate: every probe of the grid diverged (scores are not finite); lower it")
    scores = scores_of_probe(probes, found.best, columns.of_test())
    return {"top1": found.top1, "best": found.best, "accuracies": accuracies(scores, context.test_labels)}
