"""Gradients that are too long, made shorter tensor by tensor."""

from collections.abc import Iterable

import torch
from torch import Tensor

_EPSILON = 1e-6  # of the published code


def clip_each(parameters: Iterable[Tensor], limit: float) -> None:
    """Scale the gradient of each parameter by itself down to the norm ``limit``, where it is longer.

    DINO's ``clip_gradients`` (Caron et al. 2021, 2104.14294): g * min(1, limit / (|g| + 1e-6)). No norm is brought
    to the host.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    factors = limit / (torch.stack(torch._foreach_norm(gradients)) + _EPSILON)
    torch._foreach_mul_(gradients, factors.clamp_(max=1).unbind())
