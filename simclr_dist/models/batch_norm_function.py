"""Batch norm over groups as one differentiable function: what joins groups and processes around a device's kernels."""

from typing import Any, Protocol

import torch
from torch import Tensor

from simclr_dist.distributed.collectives import gather_stacked, process_count
from simclr_dist.models import batch_norm_cpu, batch_norm_cuda, batch_norm_triton
from simclr_dist.models.batch_norm_meta import give_rules
from simclr_dist.models.statistics_group import StatisticsGroup, join_statistics

give_rules()


class Kernels(Protocol):
    """What a device does with the groups of one process.

    ``x`` and ``grad`` (rows, channels, ...) lie alike in memory, without gaps. Statistics and sums are (groups,
    channels), ``weight`` and ``bias`` (channels,), all in float32 where ``x`` is in half precision.
    """

    def statistics(self, x: Tensor, groups: int) -> tuple[Tensor, Tensor]: ...

    def normalise(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float
    ) -> Tensor: ...

    def gradient_sums(
        self, grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]: ...

    def input_gradient(
        self,
        grad: Tensor,
        x: Tensor,
        mean: Tensor,
        inverse: Tensor,
        weight: Tensor,
        sum_grad: Tensor,
        sum_grad_x: Tensor,
        count: int,
    ) -> Tensor: ...


def kernels_for(x: Tensor) -> Kernels:
    """Those of the device of ``x``."""
    if not x.is_cuda:
        return batch_norm_cpu
    return batch_norm_triton if batch_norm_triton.available(x) else batch_norm_cuda


def serves_by_torch(x: Tensor) -> bool:
    """Whether ``F.batch_norm`` of ``x`` (rows, channels, ...) has exact statistics to float32 rounding, and no kernel
    of ours is faster: on a GPU Triton's programs are (docs/gpu.md)."""
    return not batch_norm_triton.available(x) if x.is_cuda else batch_norm_cpu.sums_exactly(_dense(x))


def elements_of_group(x: Tensor, group: StatisticsGroup) -> int:
    """Of each channel in one group, on all of its processes."""
    processes = process_count(group.process_group) if group.spans_processes else 1
    return x.numel() // x.shape[1] // group.local_groups * processes


def rectifies(x: Tensor, added: Tensor | None) -> bool:
    """Whether batch norm's own kernels can add ``added`` to the normalised ``x``, and rectify it, in their one pass."""
    fits = added is None or (added.shape, added.dtype) == (x.shape, x.dtype)
    return fits and batch_norm_triton.available(x)


class BatchNormOfGroups(torch.autograd.Function):
    """Ioffe and Szegedy 2015, algorithm 1, over groups of consecutive rows of this process or of several.

    Output: normalised ``x`` (``rectified``, where :func:`rectifies` says that it can be: with ``added`` to it and not
    below 0), and mean and biased variance of this process's groups, (groups, channels), without gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        group: StatisticsGroup,
        added: Tensor | None = None,
        rectified: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = _dense(x)
        kernels = kernels_for(x)
        mean, variance = kernels.statistics(x, group.local_groups)
        if group.spans_processes:
            both = torch.stack((mean, variance))
            gathered = gather_stacked(both, group.process_group, label="batch norm (forward pass)")
            mean, variance = join_statistics(gathered[:, 0], gathered[:, 1], dim=0)
        inverse = torch.rsqrt(variance + eps)
        weight, bias = weight.to(mean.dtype), None if bias is None else bias.to(mean.dtype)
        if rectified:
            added = None if added is None else _like(added, x)
            y = batch_norm_triton.normalise(x, weight, bias, mean, inverse, eps, added=added, rectified=True)
        else:
            y = kernels.normalise(x, weight, bias, mean, inverse, eps)
        # What was added is not kept: where the output was above 0 is then read off the output, else made of x again.
        ctx.save_for_backward(x, weight, bias, mean, inverse, None if added is None else y)
        ctx.group, ctx.rectified = group, rectified
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, weight, bias, mean, inverse, y = ctx.saved_tensors
        group, grad, kernels = ctx.group, _like(gradients[0], x), kernels_for(x)
        of_rectified: dict[str, Any] = {"bias": bias, "rectified": True} if ctx.rectified and y is None else {}
        if y is None:
            sum_grad, sum_grad_x = kernels.gradient_sums(grad, x, mean, inverse, weight, **of_rectified)
        else:
            sum_grad, sum_grad_x, grad = batch_norm_triton.masked_gradient_sums(grad, x, y, mean)
        # Parameters get the sums of this process's rows; DDP joins them. The input needs those of the whole group.
        grad_weight, grad_bias = (sum_grad_x * inverse).sum(0), sum_grad.sum(0)
        if group.spans_processes:
            sums = torch.stack((sum_grad, sum_grad_x))
            gathered = gather_stacked(sums, group.process_group, label="batch norm (backward pass)")
            sum_grad, sum_grad_x = gathered.sum(0)
        count = elements_of_group(x, group)
        grad_x = kernels.input_gradient(grad, x, mean, inverse, weight, sum_grad, sum_grad_x, count, **of_rectified)
        grad_added = None if y is None else grad
        return grad_x, grad_weight, None if bias is None else grad_bias, None, None, grad_added, None


def _dense(x: Tensor) -> Tensor:
    """``x``, or a copy where it has gaps in memory or an order of its own."""
    return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()


def _like(grad: Tensor, x: Tensor) -> Tensor:
    """``grad`` as ``x`` lies in memory."""
    return grad if grad.stride() == x.stride() else torch.empty_like(x).copy_(grad)
