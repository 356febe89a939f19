"""Shapes and types of what torch's batch-norm kernels make, where torch itself has no rule for tensors without data.

With them ``plan`` traces a step without computing these kernels on true zeros, and torch.compile takes them as they
are.
"""

import torch
from torch import Tensor


def _update_stats(
    x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, momentum: float
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, torch.float32) if running_mean is None else running_mean.dtype
    return x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)


def _elemt_out(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float, *, out: Tensor
) -> Tensor:
    return out


def _backward_reduce(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    input_gradient: bool,
    weight_gradient: bool,
    bias_gradient: bool,
) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty_like(mean if wanted else mean[:0])
        for wanted in (input_gradient, input_gradient, weight_gradient, bias_gradient)
    )


def _backward_elemt(grad: Tensor, x: Tensor, *unused: Tensor | None) -> Tensor:
    return torch.empty_like(x)


_RULES = {
    "batch_norm_update_stats": _update_stats,
    "batch_norm_elemt.out": _elemt_out,
    "batch_norm_backward_reduce": _backward_reduce,
    "batch_norm_backward_elemt": _backward_elemt,
}
_library = torch.library.Library("aten", "IMPL", "Meta")  # what it was given goes when it goes


def give_rules() -> None:
    """To torch, for each kernel that has none yet."""
    for name, rule in _RULES.items():
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            _library.impl(name, rule)
