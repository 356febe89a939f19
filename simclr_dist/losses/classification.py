"""Cross-entropy of answers to a question about each image, over the global batch."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.distributed.global_batch import global_batch


class Classified(NamedTuple):
    """Two scalars over the global batch."""

    loss: Tensor
    """Mean cross-entropy, to be differentiated."""
    top1: Tensor
    """Share of the rows whose highest logit is the answer."""


def classified(logits: Tensor, answers: Tensor) -> Classified:
    """The loss and the accuracy of this process's logits (images, ..., classes), whose answers are int64 (images, ...).

    Every image has as many rows, so the mean over images is that over rows.
    """
    rows = F.cross_entropy(logits.flatten(0, -2), answers.flatten(), reduction="none").view(answers.shape)
    with torch.no_grad():
        right = (logits.argmax(-1) == answers).to(logits.dtype)
    return Classified(global_batch(rows, "losses").mean(), global_batch(right, "right answers").mean())
