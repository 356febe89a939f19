"""LAMB (You et al. 2020, "Large batch optimization for deep learning", algorithm 2), without waiting for the device.

As version 3 of the paper and torch_optimizer's Lamb: moments without bias correction, the norm of the weights at most
10. On a CPU it has that package's bits (tests/optim/test_lamb.py); elsewhere all tensors go together through
``torch._foreach_*`` and no norm is brought to the host, which the package does twice for each tensor.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Tensors = list[Tensor] | tuple[Tensor, ...]

LARGEST_WEIGHT_NORM = 10.0
_EARLIER_STATE = ("step", "weight_norm", "adam_norm", "trust_ratio")
"""What checkpoints of the package's LAMB hold beside the moments; nothing is computed from it."""


class LAMB(Optimizer):
    """Adam whose step is scaled for each tensor by trust = min(|w|, 10) / |u|, with g the gradient and u the step.

        m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2;   u = m / (sqrt(v) + eps) + wd w
        w = w - lr * trust * u

    A tensor of zeros, or with a step of zeros, has trust 1. Parameter groups with ``adapt=False`` (biases and batch
    norm, see ``parameter_groups``) have trust 1 too, as in Google's code (google-research/albert, lamb_optimizer.py:
    what is excluded from decay, biases and norms, is excluded from adaptation): the gradient of a bias before batch
    norm is rounding alone, which trust would make a step in proportion to the bias.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapt": True})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also what :meth:`load_state_dict` ends with."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("adapt", True)  # a run of before these groups goes on as it began
        for moments in self.state.values():
            for name in _EARLIER_STATE:
                moments.pop(name, None)

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
                _update(group, weights, [self._moments(weight) for weight in weights])
        return loss

    def _moments(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[weight]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return state["exp_avg"], state["exp_avg_sq"]


def _update(group: dict[str, Any], weights: Tensors, moments: list[tuple[Tensor, Tensor]]) -> None:
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    averages, squares = zip(*moments, strict=True)
    beta1, beta2 = group["betas"]
    torch._foreach_mul_(averages, beta1)
    torch._foreach_add_(averages, gradients, alpha=1 - beta1)
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, group["eps"])
    steps = torch._foreach_div(averages, roots)
    del roots
    if group["weight_decay"]:
        torch._foreach_add_(steps, weights, alpha=group["weight_decay"])
    if not group["adapt"]:
        torch._foreach_add_(weights, steps, alpha=-group["lr"])
        return
    rates = _rates(weights, steps, group["lr"])
    if _host_has_values(weights):
        for weight, step, rate in zip(weights, steps, rates.tolist(), strict=True):
            weight.add_(step, alpha=-rate)  # in one rounding, as the package's
    else:
        torch._foreach_mul_(steps, rates.unbind())
        torch._foreach_sub_(weights, steps)


def _host_has_values(tensors: Tensors, /) -> bool:
    """Whether a number can be read without waiting for a device."""
    return all(tensor.device.type == "cpu" for tensor in tensors)


def _rates(weights: Tensors, steps: Tensors, lr: float) -> Tensor:
    """Each tensor's lr * trust, on its device."""
    weight_norms = torch.stack(torch._foreach_norm(weights)).clamp_(0, LARGEST_WEIGHT_NORM)
    step_norms = torch.stack(torch._foreach_norm(steps))
    trust = torch.where((weight_norms == 0) | (step_norms == 0), 1.0, weight_norms / step_norms)
    return trust.mul_(lr)
