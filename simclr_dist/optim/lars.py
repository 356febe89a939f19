"""LARS as in Google's code for SimCLR (You, Gitman and Ginsburg 2017), for all tensors at once and in place."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Tensors = list[Tensor] | tuple[Tensor, ...]


class LARS(Optimizer):
    """Momentum SGD whose learning rate is adapted to each tensor by trust = eta * |w| / |g + weight_decay * w|.

    Two forms of momentum, with v the buffer, lr the learning rate and m the momentum, as ``classic_momentum`` in
    Google's ``lars_optimizer.py``:

    - classic (default):  v = m v + lr * trust * (g + wd w);   w = w - v
    - otherwise:          v = m v + (g + wd w);   w = w - lr * trust * v, trust taken with v's norm instead

    The classic form keeps each step's learning rate inside the buffer, so the two differ while the rate changes.
    Parameter groups with ``adapt=False`` (biases and batch norm, see ``parameter_groups``) have trust 1. A tensor of
    zeros, or with a zero gradient, has trust 1 too. There is no epsilon.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        classic_momentum: bool = True,
    ) -> None:
        """Raises ValueError for a negative rate, momentum, decay or coefficient."""
        values = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient}
        for name, value in values.items():
            if value < 0:
                raise ValueError(f"LARS: {name} must not be negative, got {value}")
        super().__init__(params, {**values, "classic_momentum": classic_momentum, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient. Gradients are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                buffers = [
                    self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight)) for weight in weights
                ]
                _update(weights, [weight.grad for weight in weights], buffers, group)
        return loss


def _update(weights: list[Tensor], gradients: Tensors, buffers: list[Tensor], group: dict[str, Any]) -> None:
    lr, momentum = group["lr"], group["momentum"]
    if group["weight_decay"]:
        gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
    torch._foreach_mul_(buffers, momentum)
    if not group["classic_momentum"]:
        torch._foreach_add_(buffers, gradients)
        gradients = buffers
    if group["adapt"]:
        trust = _trust(weights, gradients, group["trust_coefficient"])
        step: Tensors = torch._foreach_mul(gradients, trust)
        torch._foreach_mul_(step, lr)
    else:
        step = torch._foreach_mul(gradients, lr)
    if group["classic_momentum"]:
        torch._foreach_add_(buffers, step)
        step = buffers
    torch._foreach_sub_(weights, step)


def _trust(weights: list[Tensor], gradients: Tensors, coefficient: float) -> list[Tensor]:
    weight_norms = torch.stack(torch._foreach_norm(weights))
    gradient_norms = torch.stack(torch._foreach_norm(gradients))
    ratio = coefficient * weight_norms / gradient_norms
    return list(torch.where((weight_norms > 0) & (gradient_norms > 0), ratio, 1.0).unbind())
