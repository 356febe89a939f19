"""LARS as in Google's code for SimCLR (You, Gitman and Ginsburg 2017), in place and in few passes over memory.

On a CPU a step costs what it moves through memory, so each tensor in turn (small ones a few together) is read for its
norms and then, still in cache, updated by torch's fused SGD kernel. Elsewhere all tensors go together through
``torch._foreach_*``, and no norm is brought to the host, which would wait for the device.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Tensors = list[Tensor] | tuple[Tensor, ...]
Parameter = tuple[Tensor, Tensor, Tensor]  # weight, gradient, momentum buffer

CHUNK_ELEMENTS = 1 << 16  # 256 KiB of float32

# In one pass v = m v + (1 - dampening) * (g + weight_decay w), w = w - lr v, with gradients left as they are. It is the
# kernel of torch.optim.SGD(fused=True), which has one rate for a whole group. Here the rate goes in as 1 - dampening,
# SGD's one factor that stays in the buffer. A "first step" would skip it: buffers start as zeros instead.
_sgd = partial(torch._fused_sgd_, nesterov=False, maximize=False, is_first_step=False)


class LARS(Optimizer):
    """Momentum SGD whose learning rate is adapted to each tensor by trust = eta * |w| / |g + weight_decay * w|.

    Three forms of momentum, with v the buffer, lr the learning rate and m the momentum; the first and the last are
    ``classic_momentum`` in Google's ``lars_optimizer.py``:

    - classic (default):  v = m v + lr * trust * (g + wd w);   w = w - v
    - trust_in_momentum:  v = m v + trust * (g + wd w);   w = w - lr * v (as published for BYOL, MoCo v3, Barlow Twins)
    - neither:            v = m v + (g + wd w);   w = w - lr * trust * v, trust taken with v's norm instead

    The classic form keeps each step's learning rate inside the buffer, so the forms differ while the rate changes.
    With ``trust_clip`` a tensor's rate is min(trust, lr) instead of lr * trust (apex's LARC, solo-learn): weights whose
    gradient is small beside them are moved as by SGD.
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
        trust_in_momentum: bool = False,
        trust_clip: bool = False,
    ) -> None:
        """Raises ValueError for a negative rate, momentum, decay or coefficient."""
        values = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient}
        for name, value in values.items():
            if value < 0:
                raise ValueError(f"LARS: {name} must not be negative, got {value}")
        forms = {"classic_momentum": classic_momentum, "trust_in_momentum": trust_in_momentum}
        forms["trust_clip"] = trust_clip
        super().__init__(params, {**values, **forms, "adapt": True})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also what :meth:`load_state_dict` ends with."""
        super().__setstate__(state)
        for group in self.param_groups:
            for form in ("trust_in_momentum", "trust_clip"):
                group.setdefault(form, False)  # checkpoints of before this form

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient. Gradients are left as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            routes: dict[bool, list[Parameter]] = {True: [], False: []}
            for weight in group["params"]:
                gradient = weight.grad
                if gradient is not None:
                    state = self.state[weight]
                    if "momentum_buffer" not in state:
                        state["momentum_buffer"] = torch.zeros_like(weight)
                    parameter = (weight, gradient, state["momentum_buffer"])
                    routes[_fusible(*parameter, group["momentum"])].append(parameter)
            for chunk in _chunks(routes[True]):
                _update_fused(group, *zip(*chunk, strict=True))
            if routes[False]:
                _update_foreach(group, *zip(*routes[False], strict=True))
        return loss


def _fusible(weight: Tensor, gradient: Tensor, buffer: Tensor, momentum: float) -> bool:
    """Whether torch's fused SGD kernel may take these tensors on a CPU. Without momentum it ignores buffers.

    It walks raw memory and silently mixes elements up where layouts differ or have gaps. Buffers come from
    ``zeros_like``, which keeps a layout only if it has no gaps: equal strides rule both out.
    """
    return (
        momentum != 0
        and weight.is_cpu
        and weight.dtype in (torch.float32, torch.float64)
        and weight.dtype == gradient.dtype == buffer.dtype
        and weight.stride() == gradient.stride() == buffer.stride()
    )


def _chunks(parameters: list[Parameter]) -> Iterator[list[Parameter]]:
    """Neighbours together up to CHUNK_ELEMENTS: what small tensors cost is calls, what large ones cost is memory."""
    chunk: list[Parameter] = []
    elements = 0
    for parameter in parameters:
        elements += parameter[0].numel()
        if chunk and elements > CHUNK_ELEMENTS:
            yield chunk
            chunk, elements = [], parameter[0].numel()
        chunk.append(parameter)
    if chunk:
        yield chunk


def _update_fused(group: dict[str, Any], weights: Tensors, gradients: Tensors, buffers: Tensors) -> None:
    momentum, decay = group["momentum"], group["weight_decay"]
    inner, outer = _inside_and_outside(group)
    if not group["adapt"]:
        _sgd(weights, gradients, buffers, weight_decay=decay, momentum=momentum, dampening=1.0 - inner, lr=outer)
    elif _adapts_gradients(group):
        # The norm of the sum itself: three dot products would need no temporary, but are no faster, cancel, and in MKL
        # their last bits depend on where in memory a tensor lies, which replicas do not share. The sums die with this
        # call, so that the next chunk's get the same memory, mapped and in cache: kept longer they cost a third more.
        sums = torch._foreach_add(gradients, weights, alpha=decay) if decay else gradients
        rates, rate = _rates(weights, sums, group, inner), 1.0
        if len(weights) > 1:  # small: one more pass is cheaper than a kernel call for each
            sums = torch._foreach_mul(sums, rates.unbind())
        else:
            rate = rates.item()
        _sgd(weights, sums, buffers, weight_decay=0.0, momentum=momentum, dampening=1.0 - rate, lr=outer)
    else:
        _sgd(weights, gradients, buffers, weight_decay=decay, momentum=momentum, dampening=0.0, lr=0.0)
        rates = _rates(weights, buffers, group, outer)
        for weight, buffer, rate in zip(weights, buffers, rates.tolist(), strict=True):
            weight.add_(buffer, alpha=-rate)
    torch.autograd.graph.increment_version(weights)  # the kernel does not: a stale graph would go unnoticed


def _update_foreach(group: dict[str, Any], weights: Tensors, gradients: Tensors, buffers: Tensors) -> None:
    inner, outer = _inside_and_outside(group)
    adapts_gradients = group["adapt"] and _adapts_gradients(group)
    sums: Tensors = gradients
    if group["weight_decay"]:
        sums = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
    if adapts_gradients or group["classic_momentum"]:
        factors = _rates(weights, sums, group, inner).unbind() if adapts_gradients else inner
        if sums is gradients:
            sums = torch._foreach_mul(sums, factors)
        else:  # of this call alone: multiplied where they are, hundreds of tensors less are allocated
            torch._foreach_mul_(sums, factors)
    torch._foreach_mul_(buffers, group["momentum"])
    torch._foreach_add_(buffers, sums)
    steps: Tensors = buffers
    if group["adapt"] and not adapts_gradients:
        steps = torch._foreach_mul(buffers, _rates(weights, buffers, group, outer).unbind())
    elif not group["classic_momentum"]:
        steps = torch._foreach_mul(buffers, outer)
    torch._foreach_sub_(weights, steps)


def _inside_and_outside(group: dict[str, Any]) -> tuple[float, float]:
    """What multiplies a gradient on its way into the buffer, and the buffer on its way out, beside trust."""
    return (group["lr"], 1.0) if group["classic_momentum"] else (1.0, group["lr"])


def _adapts_gradients(group: dict[str, Any]) -> bool:
    """Whether trust is that of the gradient and inside the buffer; otherwise it is that of the buffer."""
    return bool(group["classic_momentum"] or group["trust_in_momentum"])


def _rates(weights: Tensors, directions: Tensors, group: dict[str, Any], factor: float) -> Tensor:
    """Each tensor's factor * trust, on its device."""
    weight_norms, norms = torch.stack(torch._foreach_norm([*weights, *directions])).view(2, -1)
    trust = group["trust_coefficient"] * weight_norms / norms
    if group["trust_clip"]:
        trust = trust.div_(group["lr"]).clamp_(max=1.0)
    return torch.where((weight_norms > 0) & (norms > 0), trust, 1.0).mul_(factor)
