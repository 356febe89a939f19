"""Training a classifier with labels: one loop for fine-tuning, for its baseline and for the linear probe by SGD."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.data.order import SampleOrder
from simclr_dist.distributed.collectives import process_count
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.errors import agreed_error
from simclr_dist.evaluation.features import Features
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.optim.schedule import Schedule, peak_learning_rate
from simclr_dist.progress import showing_progress


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """SGD with Nesterov momentum, no warm-up, no weight decay, the rate falling to 0 along a cosine (Google's code)."""

    epochs: int
    batch_images: int
    """Over all processes; no more than there are images."""
    base_learning_rate: float
    """For 256 images; in proportion to the batch."""
    momentum: float = 0.9

    def with_choices(
        self, epochs: int | None, batch_images: int | None, base_learning_rate: float | None
    ) -> "Protocol":
        """The same with what is given instead."""
        return replace(
            self,
            epochs=epochs or self.epochs,
            batch_images=batch_images or self.batch_images,
            base_learning_rate=base_learning_rate or self.base_learning_rate,
        )


LINEAR = Protocol(epochs=90, batch_images=4096, base_learning_rate=0.1)
"""Chen et al. 2020, appendix B.6."""
FINE_TUNING = Protocol(epochs=60, batch_images=4096, base_learning_rate=0.05)
"""Chen et al. 2020, appendix B.5: 60 epochs with 1 % of the labels, 30 with 10 %."""


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

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.body(x))
        return logits

    @torch.inference_mode()
    def scores_of(self, rows: Features) -> Features:
        """Logits of rows that the body takes, a few thousand at a time; for a body that is quick."""
        parts = torch.from_numpy(rows).split(8192)
        scores: Features = torch.cat([self(part.to(self.linear.weight.device)).cpu() for part in parts]).numpy()
        return scores

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self


def steps_of(protocol: Protocol, images: int, seed: int) -> SampleOrder:
    """Which images each step sees.

    Raises:
        UserError: the processes cannot share the batch equally.
    """
    batch, processes = min(protocol.batch_images, images), process_count()
    if batch % processes:
        raise agreed_error(
            f"--batch: {batch} images cannot be shared equally by {processes} processes; take a multiple of {processes}"
        )
    return SampleOrder(seed=seed, images=images, global_batch_images=batch)


def train_classifier(
    classifier: Classifier,
    protocol: Protocol,
    order: SampleOrder,
    batches: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
    device: torch.device,
    *,
    what: str = "",
    talks: bool = False,
) -> None:
    """Walk all steps of the protocol; afterwards the classifier is in evaluation mode.

    Args:
        classifier: trained in place, on every process alike.
        protocol: how.
        order: the steps, of :func:`steps_of`.
        batches: number of steps -> this process's share of each step's global batch, with its labels.
        device: where.
        what: is said beside the progress.
        talks: whether there is any.

    Raises:
        UserError: the loss is not finite.
    """
    statistics = divide_batch_norm(0, order.global_batch_images, process_count())
    for norm in classifier.modules():
        if isinstance(norm, GroupedBatchNorm):
            norm.statistics = statistics
    classifier.to(device).train()
    rate = peak_learning_rate(protocol.base_learning_rate, "linear", order.global_batch_images)
    schedule = Schedule(peak=rate, warmup_steps=0, total_steps=protocol.epochs * order.steps_per_epoch)
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=protocol.momentum, nesterov=True)
    parallel = data_parallel(classifier, device)
    with showing_progress(schedule.total_steps, "steps", what, active=talks) as progress:
        for step, (inputs, labels) in enumerate(batches(schedule.total_steps)):
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            # The shares are equal, so the mean over processes of their means is that of the global batch.
            loss = F.cross_entropy(parallel(inputs.to(device, non_blocking=True)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(1)
    if not all(bool(parameter.isfinite().all()) for parameter in trained):
        raise agreed_error("--learning-rate: the training diverged (weights are not finite); lower it")
    classifier.eval()
