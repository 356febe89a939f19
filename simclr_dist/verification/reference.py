"""What everything is checked against: the plainest float64 code, the whole batch in one graph, no process group.

Nothing here is shared with the code under test but the networks' layers.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.methods import SimCLR
from simclr_dist.models.batch_norm import GroupedBatchNorm


def nt_xent(z_1: Tensor, z_2: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of every row over all others (Chen et al. 2020, equation 1), the matrix and all."""
    z = F.normalize(torch.cat((z_1, z_2)), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(z) // 2))


def batch_norm(x: Tensor, rows_per_group: int, weight: Tensor, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """Each group of consecutive rows by torch's own batch norm."""
    return torch.cat([F.batch_norm(g, None, None, weight, bias, True, 0.0, eps) for g in x.split(rows_per_group)])


def running_variance(x: Tensor, rows_per_group: int, momentum: float) -> Tensor:
    """From 1, after one step: moved by the mean over groups of their unbiased variance."""
    found = torch.stack([g.transpose(0, 1).flatten(1).var(1) for g in x.split(rows_per_group)])
    return (1 - momentum) + momentum * found.mean(0)


def gradients(method: SimCLR, views: Tensor, group_images: int) -> dict[str, Tensor]:
    """Gradient of the loss in every parameter, for the global batch of views; ``method`` is spent."""
    rows = views.shape[1] * group_images
    for norm in method.modules():
        if isinstance(norm, GroupedBatchNorm):
            norm.forward = partial(  # type: ignore[method-assign]
                batch_norm, rows_per_group=rows, weight=norm.weight, bias=norm.bias
            )
    z = method.projection(method.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2])
    (method.loss_scale * nt_xent(z[:, 0], z[:, 1], method.temperature)).backward()
    return {name: parameter.grad for name, parameter in method.named_parameters() if parameter.grad is not None}


def lars_steps(
    module: nn.Module, gradient: dict[str, Tensor], rates: list[float], momentum: float, decay: float, trust: float
) -> dict[str, Tensor]:
    """The parameters after steps of LARS in Google's classic form with the same gradient, tensor by tensor."""
    after = {}
    for name, parameter in module.named_parameters():
        weight, buffer = parameter.detach().clone(), torch.zeros_like(parameter)
        for rate in rates:
            direction, ratio = gradient[name], 1.0
            if weight.dim() > 1:  # biases and batch norm: no decay, no adaptation
                direction = direction + decay * weight
                if weight.norm() > 0 and direction.norm() > 0:
                    ratio = float(trust * weight.norm() / direction.norm())
            buffer = momentum * buffer + rate * ratio * direction
            weight = weight - buffer
        after[name] = weight
    return after
