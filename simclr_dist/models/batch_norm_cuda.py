"""Batch norm of groups on a GPU where Triton cannot start programs, through the kernels of torch's SyncBatchNorm.

They read half precision as it is and sum it in float32, with kernels of their own for ``channels_last``. Bytes an
element in half precision: statistics 2, normalise 4, gradient sums 4, input gradient 6. The last has no ``out=``, so
where a process holds several groups each takes 4 more to get to its place.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance.

    By the kernel of ``torch.batch_norm_stats`` in the form that gives the variance itself: 1 / inverse^2 - eps loses
    the digits of one that is far below eps.
    """
    return _stacked(torch.batch_norm_update_stats(group, None, None, 0.0) for group in _by_group(x, groups))


def normalise(x: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
    """``(x - mean) * inverse * weight + bias``."""
    y = torch.empty_like(x)
    groups = zip(_by_group(x, len(mean)), mean, inverse, _by_group(y, len(mean)), strict=True)
    for group, group_mean, group_inverse, out in groups:
        torch.batch_norm_elemt(group, weight, bias, group_mean, group_inverse, eps, out=out)
    return y


def gradient_sums(grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of ``grad`` and of ``grad * (x - mean)``."""
    grads, rows = (map(_summed_in_float32, _by_group(tensor, len(mean))) for tensor in (grad, x))
    return _stacked(
        torch.batch_norm_backward_reduce(*group, weight, True, False, False)[:2]
        for group in zip(grads, rows, mean, inverse, strict=True)
    )


def input_gradient(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    sum_grad: Tensor,
    sum_grad_x: Tensor,
    count: int,
) -> Tensor:
    """``weight * inverse * (grad - sum_grad / count - (x - mean) * inverse^2 * sum_grad_x / count)``."""
    counts = torch.full((1,), count, dtype=torch.int32, device=x.device)  # the kernel adds those of all processes
    parts = zip(_by_group(grad, len(mean)), _by_group(x, len(mean)), strict=True)
    made = (
        torch.batch_norm_backward_elemt(
            *part, mean[number], inverse[number], weight, sum_grad[number], sum_grad_x[number], counts
        )
        for number, part in enumerate(parts)
    )
    if len(mean) == 1:
        return next(made)
    grad_x = torch.empty_like(x)
    for place, of_group in zip(_by_group(grad_x, len(mean)), made, strict=True):
        place.copy_(of_group)
    return grad_x


def _summed_in_float32(x: Tensor) -> Tensor:
    """``x``, with the channels last where it is in half precision.

    For other layouts torch's kernel rounds sums of gradients to half precision: off by 3e-3 (torch 2.11, an H100).
    """
    if x.dtype.itemsize > 2 or x.dim() == 2:
        return x
    return x.view(len(x), x.shape[1], 1, -1).contiguous(memory_format=torch.channels_last) if x.is_contiguous() else x


def _by_group(x: Tensor, groups: int) -> list[Tensor]:
    return list(x.split(len(x) // groups))


def _stacked(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    first, second = zip(*pairs, strict=True)
    return torch.stack(first), torch.stack(second)
