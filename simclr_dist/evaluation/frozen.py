"""Methods that leave the encoder as it is: nearest neighbours, the linear probe, the probe with few labels.

Every process calls them. They return None on processes that are no longer needed. Nothing is chosen on test images.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import nn

from simclr_dist.distributed.processes import first_goes_on
from simclr_dist.evaluation.classifiers import VALIDATION_SHARE, Probe, accuracies, chosen_probe
from simclr_dist.evaluation.context import EvaluationContext
from simclr_dist.evaluation.features import extract_features
from simclr_dist.evaluation.image_batches import cropped_and_flipped, features_as_they_are
from simclr_dist.evaluation.knn import knn_scores
from simclr_dist.evaluation.protocol import LINEAR, Protocol
from simclr_dist.evaluation.results import Result, ResultRow, accuracy_columns
from simclr_dist.evaluation.saved_training import Accuracies
from simclr_dist.evaluation.subsets import few_labels, subset_digest
from simclr_dist.evaluation.supervised import Classifier, steps_of, total_steps, train_classifier
from simclr_dist.progress_bar import showing_progress

LBFGS_AT_MOST_IMAGES = 100_000
PUBLISHED_COUNTS = (10, 20, 50, 100, 200, 500)


def knn(context: EvaluationContext, *, neighbours: int = 20, temperature: float = 0.1) -> Result:
    """Weighted nearest neighbours among all training images, by cosine similarity."""
    scores = knn_scores(
        context.train_features,
        context.train_labels,
        context.test_features,
        neighbours=neighbours,
        temperature=temperature,
        device=context.how.device,
        distributed=True,
        talks=context.how.talks,
    )
    # What got no vote is no answer: of 5 neighbours in one class, four classes more would be among the best five.
    voted = np.where(scores > 0, scores, -np.inf)
    row = _row(context, "kNN, pretrained", accuracies(voted, context.test_labels))
    return context.result("knn", {"neighbours": neighbours, "temperature": temperature}, [row])


def probe(
    context: EvaluationContext,
    *,
    solver: str = "auto",
    augment: bool = False,
    epochs: int | None = None,
    batch_images: int | None = None,
    base_learning_rate: float | None = None,
    optimizer: str | None = None,
    precision: str | None = None,
    seed: int = 0,
) -> Result | None:
    """A linear classifier on the frozen features of all training images.

    Args:
        context: the encoder and the images.
        solver: ``lbfgs``: logistic regression to convergence, L2 chosen on training images held out; on one process.
            ``sgd``: the paper's protocol, shared by all processes, the classifier of its last step. ``auto``: the
            first up to 100,000 images, unless something of ``sgd`` is asked for. What follows is of ``sgd``:
        augment: on features of random crops and flips, computed anew each epoch, as the paper; otherwise on
            those of the centre crops, computed once.
        epochs: None: 90.
        batch_images: None: 4096. No more than there are images.
        base_learning_rate: for 256 images; None: 0.1.
        optimizer: ``sgd`` (None) or ``lars``.
        precision: of the kernels while training, ``float32`` (None) or ``bfloat16``.
        seed: of the order of the images, their crops and the initial weights; of ``lbfgs``: of the held-out images.

    Raises:
        UserError: the processes cannot share a batch, the training diverged.
        TrainingStoppedError: a signal stopped a training that is saved (``context.unfinished``).
    """
    chosen = {
        "epochs": epochs,
        "batch_images": batch_images,
        "base_learning_rate": base_learning_rate,
        "optimizer": optimizer,
        "precision": precision,
    }
    if solver == "auto":
        asked = augment or any(chosen.values())
        solver = "sgd" if asked or len(context.train) > LBFGS_AT_MOST_IMAGES else "lbfgs"
    if solver == "sgd":
        return _probe_by_sgd(context, augment, LINEAR.with_choices(**chosen), seed)
    train, test = context.train_features, context.test_features
    if not first_goes_on():
        return None
    found = chosen_probe(
        np.asarray(train), context.train_labels, seed, device=context.how.device, talks=context.how.talks
    )
    right = accuracies(found.scores(np.asarray(test)), context.test_labels)
    row = _row(context, "linear probe, pretrained", right, _choice(found))
    return context.result("probe", {"solver": "lbfgs", "validation_share": VALIDATION_SHARE, "seed": seed}, [row])


def lowshot(
    context: EvaluationContext, *, labels_per_class: Sequence[int] | None = None, splits: int = 5, seed: int = 0
) -> Result | None:
    """The probe by logistic regression with few labels a class, over several fixed draws of them.

    Args:
        context: the encoder and the images.
        labels_per_class: None: 10, 20, 50, 100, 200, 500, as far as half of the classes have them.
        splits: draws; their numbers are ``seed``, ``seed`` + 1, ...
        seed: of the first draw.

    Raises:
        UserError: a class has fewer images.
    """
    counts = context.numbers_of_labels(labels_per_class, PUBLISHED_COUNTS)
    train, test = context.train_features, context.test_features
    if not first_goes_on():
        return None
    rows = []
    with showing_progress(len(counts) * splits, "probes", active=context.how.talks) as progress:
        for count in counts:
            drawn, right, chosen = [], [], []
            for split in range(splits):
                indices = few_labels(context.train_labels, count, seed + split)
                drawn.append(indices)
                found = chosen_probe(train[indices], context.train_labels[indices], seed)
                right.append(accuracies(found.scores(np.asarray(test)), context.test_labels))
                chosen.append(found.inverse_l2)
                progress(1)
            rows.append(
                ResultRow(
                    name="linear probe, pretrained",
                    labels=f"{count} a class",
                    images=len(drawn[0]),
                    **accuracy_columns(right),
                    subsets_sha256=tuple(subset_digest(indices) for indices in drawn),
                    details={"inverse_l2": chosen},
                )
            )
    protocol = {"labels_per_class": list(counts), "splits": splits, "validation_share": VALIDATION_SHARE, "seed": seed}
    return context.result("lowshot", protocol, rows)


def _probe_by_sgd(context: EvaluationContext, augment: bool, protocol: Protocol, seed: int) -> Result:
    order, how, size = steps_of(protocol, len(context.train), seed), context.how, context.data.image_size
    encoder = context.pretrained.encoder
    if augment:
        classifier = Classifier(encoder, encoder.output_dim, context.classes, seed=seed, frozen=True)
        recipe, pinned = replace(context.recipe, data=context.data), how.device.type == "cuda"
        batches = cropped_and_flipped(context.train, recipe, order, workers=how.workers, pin_memory=pinned)
    else:
        train, test = context.train_features, context.test_features
        classifier = Classifier(nn.Identity(), train.shape[1], context.classes, seed=seed)
        batches = features_as_they_are(train, context.train_labels, order)
    saved = context.saved_training("probe", classifier, protocol, order, np.arange(len(context.train)))
    found = saved.accuracies
    if found is None:
        train_classifier(classifier, protocol, order, batches, how.device, label="probe", talks=how.talks, saved=saved)
        if augment:
            scores = extract_features(classifier, context.test, size, replace(how, cache=None))
        else:
            scores = classifier.scores_of(test)
        found = saved.finish(accuracies(scores, context.test_labels), total_steps(protocol, order))
    choices = {"solver": "sgd", "augment": augment, **asdict(protocol), "steps_per_epoch": order.steps_per_epoch}
    row = _row(context, "linear probe, pretrained", found)
    return context.result("probe", {**choices, "batch_images": order.global_batch_images, "seed": seed}, [row])


def _row(context: EvaluationContext, name: str, found: Accuracies, details: dict[str, Any] | None = None) -> ResultRow:
    """Of a method that learns from all training images."""
    return ResultRow(
        name=name,
        labels="all",
        images=len(context.train),
        **accuracy_columns([found]),
        subsets_sha256=(subset_digest(np.arange(len(context.train))),),
        details=details or {},
    )


def _choice(found: Probe) -> dict[str, Any]:
    return {
        "inverse_l2": found.inverse_l2,
        "validation": {f"{value:g}": accuracy for value, accuracy in found.validation.items()},
        "held_out_sha256": subset_digest(found.held_out),
    }
