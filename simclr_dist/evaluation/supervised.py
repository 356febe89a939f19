"""Training a classifier with labels: one loop for fine-tuning, for its baseline and for the linear probe by SGD."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from copy import deepcopy
from functools import partial
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.data.loading.order import SampleOrder
from simclr_dist.data.sources.base import IGNORED
from simclr_dist.distributed.agreement import decided_by_first
from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.distributed.data_parallel import data_parallel, settle_buckets
from simclr_dist.errors import AgreedError
from simclr_dist.evaluation.feature_blocks import FeatureMatrix, Features
from simclr_dist.evaluation.protocol import Protocol
from simclr_dist.evaluation.saved_training import SavedTraining
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.precision import AUTOCAST, half_precision
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.optim.schedule import peak_learning_rate
from simclr_dist.progress_bar import showing_progress

Batches = Callable[[Sequence[int]], Generator[tuple[Tensor, Tensor], None, None]]
"""Numbers of steps -> this process's share of each step's global batch, with its labels."""


Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits and labels of this process's share -> a loss whose mean over the processes is that of the global batch."""


class Classifier(nn.Module):
    """A body and a linear layer on it. ``frozen``: the body is not trained and stays in evaluation mode."""

    def __init__(self, body: nn.Module, features: int, classes: int, *, seed: int = 0, frozen: bool = False) -> None:
        """The body is copied: what the caller holds stays as it is."""
        super().__init__()
        self.body, self.frozen = deepcopy(body), frozen
        self.body.requires_grad_(not frozen)
        self.linear = nn.Linear(features, classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    @property
    def trained(self) -> nn.Module:
        """What training changes: all of it, or the linear layer."""
        return self.linear if self.frozen else self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.body(x))
        return logits

    @torch.inference_mode()
    def scores_of(self, rows: FeatureMatrix) -> Features:
        """Logits of rows that the body takes, a few thousand at a time; for a body that is quick."""
        parts = [torch.from_numpy(rows[start : start + 8192]) for start in range(0, len(rows), 8192)]
        scores: Features = torch.cat([self(part.to(self.linear.weight.device)).cpu() for part in parts]).numpy()
        return scores

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self


def steps_of(protocol: Protocol, images: int, seed: int) -> SampleOrder:
    """Which images each step sees: a batch of the protocol, or all images when there are no more.

    Raises:
        UserError: the processes cannot share the protocol's batch equally. All images are nobody's choice, so they are
            shared as far as they go (:func:`own_part`).
    """
    batch, processes = min(protocol.batch_images, images), process_count()
    if batch % processes and batch < images:
        raise AgreedError(
            f"--batch: {batch} images cannot be shared equally by {processes} processes; take a multiple of {processes}"
        )
    return SampleOrder(seed=seed, images=images, global_batch_images=batch)


def own_part(order: SampleOrder) -> tuple[int, int]:
    """This process's part of each global batch and the number of equal parts, as ``order.samples`` takes them.

    As many parts as processes where the batch divides; else as many as divide both, each computed by several processes,
    consecutive ones making up the batch. The mean over processes is that of the batch all the same.
    """
    parts = gcd(order.global_batch_images, process_count())
    return process_rank() % parts, parts


def pixel_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy, the mean over the pixels of the global batch that count; a :data:`Loss`.

    Args:
        logits: (images, classes, height, width).
        masks: uint8 (images, height, width), IGNORED where no class counts.
    """
    # By rows: of four dimensions torch's sums on a GPU are not the same again.
    rows, labels = logits.movedim(1, -1).flatten(0, -2), masks.long().flatten()
    counted = gather_stacked((labels != IGNORED).sum(), label="how many pixels count").sum()
    # Every part of the batch is computed by equally many processes, so parts that are there twice change nothing.
    return F.cross_entropy(rows, labels, ignore_index=IGNORED, reduction="sum") * process_count() / counted.clamp_min(1)


def train_classifier(
    classifier: nn.Module,
    protocol: Protocol,
    order: SampleOrder,
    batches: Batches,
    device: torch.device,
    *,
    loss: Loss = F.cross_entropy,
    label: str = "",
    talks: bool = False,
    saved: SavedTraining | None = None,
    may_diverge: bool = False,
) -> None:
    """Walk all steps of the protocol; afterwards the classifier is in evaluation mode.

    Started again after a stop it resumes where it was saved, and on as many processes ends with the same bits.

    Args:
        classifier: trained in place, on every process alike; all of it, or what a :class:`Classifier` says.
        protocol: how.
        order: the steps, of :func:`steps_of`.
        batches: the images or features of each step.
        device: where.
        loss: of logits; the default is the mean over images, which are equally many in each share.
        label: shown beside the progress.
        talks: whether there is any.
        saved: where it is saved (None: nowhere).
        may_diverge: weights that are not finite are no error.

    Raises:
        UserError: weights are not finite, or the training cannot be saved.
        TrainingStoppedError: a signal came; it was saved.
    """
    saved = saved or SavedTraining()
    batch, processes = order.global_batch_images, process_count()
    # Of one copy of the batch: with several the batch-norm statistics would count every image as often.
    statistics = divide_batch_norm(batch, batch * processes // own_part(order)[1], processes)
    for norm in classifier.modules():
        if isinstance(norm, GroupedBatchNorm):
            norm.statistics = statistics
    classifier.to(device).train()
    rate = peak_learning_rate(protocol.base_learning_rate, "linear", order.global_batch_images)
    total = total_steps(protocol, order)
    schedule = protocol.schedule(rate, total)
    optimizer = protocol.make_optimizer(classifier)
    trained = classifier.trained if isinstance(classifier, Classifier) else classifier
    state = {"model": trained, "optimizer": optimizer}
    start = saved.restore(state)
    parallel = data_parallel(classifier, device)

    def backward(inputs: Tensor, labels: Tensor) -> None:
        with half_precision(device, AUTOCAST.get(protocol.precision)):
            logits = parallel(inputs.to(device, non_blocking=True))
        loss(logits.float(), labels.to(device)).backward()

    from_step = f"{label} from step {start}" if start else label
    with (
        closing(batches(range(start, total))) as shares,
        showing_progress(total - start, "steps", from_step, active=talks) as advance,
        saved,
    ):
        for step, (inputs, labels) in enumerate(shares, start):
            if step == start:
                settle_buckets(parallel, list(parallel.buffers()), partial(backward, torch.zeros_like(inputs), labels))
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            optimizer.zero_grad()
            backward(inputs, labels)
            optimizer.step()
            advance(1)
            saved.after_step(state, step + 1, total)
    if not may_diverge and not all(bool(parameter.isfinite().all()) for parameter in trained.parameters()):
        decided_by_first(saved.remove)  # it would only diverge again
        raise AgreedError("--learning-rate: the training diverged (weights are not finite); lower it")
    classifier.eval()


def total_steps(protocol: Protocol, order: SampleOrder) -> int:
    """Of a whole training."""
    return protocol.epochs * order.steps_per_epoch
