"""The rows of all processes, through which the loss of one process becomes that of the global batch."""

from typing import Any

import torch
from torch import Tensor

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank


def global_batch(own: Tensor, label: str = "rows of the global batch") -> Tensor:
    """The rows of all processes, (processes * rows, ...), in the order of the global batch.

    The gradient reaches the process's own rows, times the number of processes: where every process computes the same
    loss of the same rows, the mean over processes that DistributedDataParallel takes of the parameters' gradients is
    then the gradient of that loss. All processes must hold rows of one shape. With one process it is ``own`` itself.

    Args:
        own: this process's rows, (rows, ...), of any type; numbers without a gradient (labels) too.
        label: what they are, should a process be lost.
    """
    if process_count() == 1:
        return own
    return _GlobalBatch.apply(own, label) if own.requires_grad else _gathered(own, label)


def own_rows(everyone: Tensor) -> Tensor:
    """This process's part of the rows of all processes."""
    return everyone.chunk(process_count())[process_rank()]


def _gathered(own: Tensor, label: str) -> Tensor:
    return gather_stacked(own, label=label).flatten(0, 1)


class _GlobalBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, label: str) -> Tensor:
        ctx.rows = len(own)
        return _gathered(own, label)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        first = process_rank() * ctx.rows
        return gradients[0][first : first + ctx.rows] * process_count(), None
