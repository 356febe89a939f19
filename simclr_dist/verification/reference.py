"""What everything is checked against: the plainest float64 code, the whole batch in one graph, no process group.

Nothing here is shared with the code under test but the networks' layers and the method's own lines.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.data.loading.batch import Batch
from simclr_dist.distributed.collectives import alone
from simclr_dist.methods.base import Method, Tensors
from simclr_dist.models.batch_norm import GroupedBatchNorm


def batch_norm(x: Tensor, rows_per_group: int, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """Each group of consecutive rows by torch's own batch norm."""
    return torch.cat([F.batch_norm(g, None, None, weight, bias, True, 0.0, eps) for g in x.split(rows_per_group)])


def running_statistics(x: Tensor, rows_per_group: int, mean: Tensor, variance: Tensor, momentum: float) -> Tensors:
    """What running ones become in a step: moved by the means over groups of their means and unbiased variances."""
    groups = [group.transpose(0, 1).flatten(1) for group in x.split(rows_per_group)]
    found_mean = torch.stack([group.mean(1) for group in groups]).mean(0)
    found_variance = torch.stack([group.var(1) for group in groups]).mean(0)
    return {
        "running_mean": (1 - momentum) * mean + momentum * found_mean,
        "running_var": (1 - momentum) * variance + momentum * found_variance,
    }


class PlainStep(NamedTuple):
    """A step of the recipe in one process."""

    batch: Batch
    """The global batch as the method prepares it."""
    targets: Tensors
    embeddings: Tensors
    outputs: Tensors
    gradients: Tensors
    """Of every trained parameter that got one."""
    reference_loss: Tensor | None
    reference_gradients: Tensors
    """Of the method's reference in the embeddings; empty when it has none."""
    state: Tensors
    """Buffers, and parameters that are not trained, after the update."""


def one_process(method: Method, batch: Batch, groups: int) -> PlainStep:
    """A step of a method with the global batch, in this process alone, whole, with ``groups`` batch-norm groups.

    ``method`` is spent: its batch norms are the plain one from now on.
    """
    for norm in method.modules():
        if isinstance(norm, GroupedBatchNorm):
            _make_plain(norm, groups)
    with alone():
        with torch.no_grad():
            batch = method.prepare(batch)
            targets = method.targets(batch)
        embeddings = method.embedded(batch)
        outputs = method.loss(embeddings, targets, batch)
        outputs["loss"].backward()
        gradients = gradients_of(method)
        seen = {name: each.detach() for name, each in embeddings.items()}
        leaves = {name: each.clone().requires_grad_() for name, each in seen.items() if each.is_floating_point()}
        reference = method.reference_loss(seen | leaves, targets, batch)
        if reference is not None:
            reference.backward()
        state = state_after_update(method, seen, targets, batch)
    return PlainStep(
        batch=batch,
        targets=targets,
        embeddings=seen,
        outputs={name: each.detach() for name, each in outputs.items()},
        gradients=gradients,
        reference_loss=None if reference is None else reference.detach(),
        reference_gradients={name: each.grad for name, each in leaves.items() if each.grad is not None},
        state=state,
    )


def gradients_of(method: Method) -> Tensors:
    """By parameter, of those that have one."""
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


def state_after_update(method: Method, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
    """What is not trained by gradients, after one step of plain gradient descent and the method's own part."""
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
        method.after_update(embeddings, targets, batch, 0, 10)
    untrained = {name: p.detach().clone() for name, p in method.named_parameters() if not p.requires_grad}
    return untrained | {name: buffer.clone() for name, buffer in method.named_buffers()}


def _make_plain(norm: GroupedBatchNorm, groups: int) -> None:
    own = norm.forward

    def forward(x: Tensor, added: Tensor | None = None, *, rectified: bool = False) -> Tensor:
        if not norm.training:
            return own(x, added, rectified=rectified)
        rows = len(x) // groups
        with torch.no_grad():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.momentum is not None
            assert norm.num_batches_tracked is not None
            moved = running_statistics(x, rows, norm.running_mean, norm.running_var, norm.momentum)
            norm.running_mean.copy_(moved["running_mean"])
            norm.running_var.copy_(moved["running_var"])
            norm.num_batches_tracked += 1
        y = batch_norm(x, rows, norm.weight, norm.bias, norm.eps)
        return (y if added is None else y + added).relu() if rectified else y

    norm.forward = forward  # type: ignore[method-assign]
