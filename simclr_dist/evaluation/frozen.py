"""Methods that leave the encoder as it is: nearest neighbours, the linear probe, the probe with few labels.

Every process calls them. They return None on processes that are no longer needed. Nothing is chosen on test images.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import nn

from simclr_dist.distributed.collectives import process_rank
from simclr_dist.evaluation.classifiers import VALIDATION_SHARE, Probe, chosen_probe, top_accuracies
from simclr_dist.evaluation.features import extract_features
from simclr_dist.evaluation.image_batches import cropped_and_flipped, features_as_they_are
from simclr_dist.evaluation.knn import knn_scores
from simclr_dist.evaluation.protocol import LINEAR, Protocol
from simclr_dist.evaluation.results import Result, Row
from simclr_dist.evaluation.saved_training import Accuracies
from simclr_dist.evaluation.subject import Subject
from simclr_dist.evaluation.subsets import few_labels, subset_digest
from simclr_dist.evaluation.supervised import Classifier, steps_of, total_steps, train_classifier
from simclr_dist.progress_bar import showing_progress

LBFGS_AT_MOST_IMAGES = 100_000
PUBLISHED_COUNTS = (10, 20, 50, 100, 200, 500)


def knn(subject: Subject, *, neighbours: int = 20, temperature: float = 0.1) -> Result:
    """Weighted nearest neighbours among all training images, by cosine similarity."""
    scores = knn_scores(
        subject.train_features,
        subject.train_labels,
        subject.test_features,
        neighbours=neighbours,
        temperature=temperature,
        device=subject.how.device,
        distributed=True,
    )
    row = _row(subject, "kNN, pretrained", top_accuracies(scores, subject.test_labels))
    return subject.result("knn", {"neighbours": neighbours, "temperature": temperature}, [row])


def probe(
    subject: Subject,
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
        subject: the encoder and the images.
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
        TrainingStoppedError: a signal stopped a training that is saved (``subject.unfinished``).
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
        solver = "sgd" if asked or len(subject.train) > LBFGS_AT_MOST_IMAGES else "lbfgs"
    if solver == "sgd":
        return _probe_by_sgd(subject, augment, LINEAR.with_choices(**chosen), seed)
    train, test = subject.train_features, subject.test_features
    if process_rank() != 0:
        return None
    found = chosen_probe(np.asarray(train), subject.train_labels, seed)
    accuracies = top_accuracies(found.scores(np.asarray(test)), subject.test_labels)
    row = _row(subject, "linear probe, pretrained", accuracies, _choice(found))
    return subject.result("probe", {"solver": "lbfgs", "validation_share": VALIDATION_SHARE, "seed": seed}, [row])


def lowshot(
    subject: Subject, *, labels_per_class: Sequence[int] | None = None, splits: int = 5, seed: int = 0
) -> Result | None:
    """The probe by logistic regression with few labels a class, over several fixed draws of them.

    Args:
        subject: the encoder and the images.
        labels_per_class: None: 10, 20, 50, 100, 200, 500, as far as each class has them.
        splits: draws; their numbers are ``seed``, ``seed`` + 1, ...
        seed: of the first draw.

    Raises:
        UserError: a class has fewer images.
    """
    smallest = subject.smallest_class
    counts = labels_per_class or [count for count in PUBLISHED_COUNTS if count <= smallest] or [max(1, smallest)]
    subject.refuse_more_than_there_are(max(counts))
    train, test = subject.train_features, subject.test_features
    if process_rank() != 0:
        return None
    rows = []
    with showing_progress(len(counts) * splits, "probes", active=subject.how.talks) as progress:
        for count in counts:
            drawn = [few_labels(subject.train_labels, count, seed + split) for split in range(splits)]
            top1, top5, chosen = [], [], []
            for indices in drawn:
                found = chosen_probe(train[indices], subject.train_labels[indices], seed)
                first, fifth = top_accuracies(found.scores(np.asarray(test)), subject.test_labels)
                top1.append(first)
                top5 += [] if fifth is None else [fifth]
                chosen.append(found.inverse_l2)
                progress(1)
            rows.append(
                Row(
                    name="linear probe, pretrained",
                    labels=f"{count} a class",
                    images=len(drawn[0]),
                    top1=tuple(top1),
                    top5=tuple(top5),
                    subsets_sha256=tuple(subset_digest(indices) for indices in drawn),
                    details={"inverse_l2": chosen},
                )
            )
    protocol = {"labels_per_class": list(counts), "splits": splits, "validation_share": VALIDATION_SHARE, "seed": seed}
    return subject.result("lowshot", protocol, rows)


def _probe_by_sgd(subject: Subject, augment: bool, protocol: Protocol, seed: int) -> Result:
    order, how, size = steps_of(protocol, len(subject.train), seed), subject.how, subject.data.image_size
    encoder = subject.pretrained.encoder
    if augment:
        classifier = Classifier(encoder, encoder.output_dim, subject.classes, seed=seed, frozen=True)
        recipe, pinned = replace(subject.pretrained.recipe, data=subject.data), how.device.type == "cuda"
        batches = cropped_and_flipped(subject.train, recipe, order, workers=how.workers, pin_memory=pinned)
    else:
        train, test = subject.train_features, subject.test_features
        classifier = Classifier(nn.Identity(), train.shape[1], subject.classes, seed=seed)
        batches = features_as_they_are(train, subject.train_labels, order)
    saved = subject.saved_training("probe", classifier, protocol, order, np.arange(len(subject.train)))
    found = saved.accuracies
    if found is None:
        train_classifier(classifier, protocol, order, batches, how.device, label="probe", talks=how.talks, saved=saved)
        if augment:
            scores = extract_features(classifier, subject.test, size, replace(how, cache=None))
        else:
            scores = classifier.scores_of(test)
        found = saved.finish(top_accuracies(scores, subject.test_labels), total_steps(protocol, order))
    told = {"solver": "sgd", "augment": augment, **asdict(protocol), "steps_per_epoch": order.steps_per_epoch}
    row = _row(subject, "linear probe, pretrained", found)
    return subject.result("probe", {**told, "batch_images": order.global_batch_images, "seed": seed}, [row])


def _row(subject: Subject, name: str, found: Accuracies, details: dict[str, Any] | None = None) -> Row:
    """Of a method that learns from all training images."""
    top1, top5 = found
    return Row(
        name=name,
        labels="all",
        images=len(subject.train),
        top1=(top1,),
        top5=() if top5 is None else (top5,),
        subsets_sha256=(subset_digest(np.arange(len(subject.train))),),
        details=details or {},
    )


def _choice(found: Probe) -> dict[str, Any]:
    return {
        "inverse_l2": found.inverse_l2,
        "validation": {f"{value:g}": accuracy for value, accuracy in found.validation.items()},
        "held_out_sha256": subset_digest(found.held_out),
    }
