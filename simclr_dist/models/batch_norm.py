"""Batch norm whose statistics are taken over a stated number of images, wherever these images are.

A group may be a part of a process's rows, exactly its rows, or the rows of several processes. torch's SyncBatchNorm
refuses CPU tensors and knows only whole processes; this one is the same code on every backend, so what the tests prove
with gloo is what runs with NCCL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.distributed.collectives import gather_stacked, process_count
from simclr_dist.distributed.watchdog.progress import begin_collective
from simclr_dist.models.batch_norm_sums import by_group, foldable, gradient_sums, spread, statistics
from simclr_dist.models.statistics_group import StatisticsGroup


class GroupedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over groups of rows (Ioffe and Szegedy 2015; global over a batch as in SimCLR, section 2.1).

    Same parameters, buffers and state dict as ``nn.BatchNorm2d``. Input (rows, channels, ...); the rows of a group
    stand together. Running statistics follow the mean over this process's groups.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        affine: bool = True,
        bias: bool = True,
        statistics: StatisticsGroup | None = None,
    ) -> None:
        """``affine`` False: neither gain nor offset; ``bias`` False: no offset."""
        super().__init__(num_features, eps, momentum, affine=affine)
        self.statistics = statistics or StatisticsGroup()
        self.held = False
        self.seen: list[tuple[Tensor, Tensor]] | None = None
        if not bias:
            self.register_parameter("bias", None)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected (rows, channels, ...), got {x.dim()} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x``, of the same shape.

        Raises:
            ValueError: the rows do not divide into the groups.
        """
        group = self.statistics
        whole = group.local_groups == 1 and not group.spans_processes
        if not self.training or (whole and not foldable(x)):
            return self._by_torch(x)
        if len(x) % group.local_groups:
            raise ValueError(f"{len(x)} rows do not divide into {group.local_groups} batch-norm groups")
        weight = torch.ones_like(self.running_mean) if self.weight is None else self.weight
        y, mean, variance = _GroupedBatchNorm.apply(x, weight, self.bias, self.eps, group)
        with torch.no_grad():
            count = x.numel() // x.shape[1] // group.local_groups * _processes(group)
            self._meet(mean.mean(0), variance.mean(0) * (count / max(1, count - 1)))
        return y  # type: ignore[no-any-return]

    def _by_torch(self, x: Tensor) -> Tensor:
        """Evaluation, or one group that is exactly these rows where torch's own kernel is exact: that one."""
        if not self.training or (self.seen is None and not self.held):
            return super().forward(x)
        # Stand-ins for the running ones, also when held: a recomputation must save as many tensors as the first pass.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)  # type: ignore[arg-type]
        y: Tensor = F.batch_norm(x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        self._meet(mean, variance)
        return y

    def _meet(self, mean: Tensor, variance: Tensor) -> None:
        """Statistics of one pass: dropped when held, kept when collected, otherwise the running ones move."""
        if self.held:
            return
        if self.seen is not None:
            self.seen.append((mean, variance))
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


def norms_of(module: nn.Module) -> list[GroupedBatchNorm]:
    """The grouped batch norms within a module."""
    return [norm for norm in module.modules() if isinstance(norm, GroupedBatchNorm)]


@contextmanager
def statistics_held(module: nn.Module) -> Iterator[None]:
    """Inside, forward passes leave the running statistics alone: for passes that repeat an earlier one."""
    norms = norms_of(module)
    before = [norm.held for norm in norms]
    for norm in norms:
        norm.held = True
    try:
        yield
    finally:
        for norm, held in zip(norms, before, strict=True):
            norm.held = held


@contextmanager
def statistics_of_one_pass(module: nn.Module, chunks: int) -> Iterator[None]:
    """Inside, the forward passes of so many chunks of equal size count as one: the running statistics move as there.

    A norm may be called several times a chunk (crops of two sizes): the first calls of all chunks are together what
    the first call of the whole is, then the second ones.
    """
    norms = norms_of(module)
    for norm in norms:
        norm.seen = []
    try:
        yield
    finally:
        for norm in norms:
            seen, norm.seen = norm.seen or [], None
            calls = len(seen) // chunks
            for number in range(calls):
                of_call = seen[number::calls]
                norm._meet(*(torch.stack(values).mean(0) for values in zip(*of_call, strict=True)))


def _processes(group: StatisticsGroup) -> int:
    return process_count(group.process_group) if group.spans_processes else 1


class _GroupedBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, group: StatisticsGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        folded = foldable(x)
        rows = by_group(x, group.local_groups, folded)
        # Half-precision inputs are summed in float32; float64 stays what it is.
        precision = torch.promote_types(x.dtype, torch.float32)
        variance, mean = statistics(rows.to(precision), x.shape[1], folded)
        if group.spans_processes:
            # Chan's rule for equal counts: no sum of squares, so no cancellation when the mean is large.
            both = torch.stack((mean, variance))
            gathered = gather_stacked(both, group.process_group, label="batch norm (forward pass)")
            means, variances = gathered[:, 0], gathered[:, 1]
            mean, variance = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        inverse = torch.rsqrt(variance + eps)
        scale = inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        y = torch.empty_like(x)  # a tensor of its own, not a view of the result: the ReLU that follows works in place
        torch.addcmul(spread(shift, rows), rows, spread(scale, rows), out=by_group(y, group.local_groups, folded))
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.group, ctx.folded, ctx.has_bias = group, folded, bias is not None
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        group, folded = ctx.group, ctx.folded
        rows, grad = (by_group(tensor, group.local_groups, folded) for tensor in (x, gradients[0]))
        precision = mean.dtype
        rows, grad = rows.to(precision), grad.to(precision)
        sum_grad, sum_grad_x = gradient_sums(grad, rows, mean, inverse, folded)
        # Parameters get the sums of this process's rows; DDP joins them. The input needs those of the whole group.
        grad_weight, grad_bias = sum_grad_x.sum(0), sum_grad.sum(0)
        count = x.numel() // x.shape[1] // group.local_groups
        if group.spans_processes:
            sums = torch.stack((sum_grad, sum_grad_x))
            gathered = gather_stacked(sums, group.process_group, label="batch norm (backward pass)")
            (sum_grad, sum_grad_x), count = gathered.sum(0), count * len(gathered)
        scale = weight * inverse
        slope = -scale * inverse * sum_grad_x / count
        shift = -scale * sum_grad / count - slope * mean
        grad_x = torch.empty_like(x, dtype=precision)
        by_rows = by_group(grad_x, group.local_groups, folded)
        torch.addcmul(spread(shift, rows), rows, spread(slope, rows), out=by_rows).addcmul_(grad, spread(scale, rows))
        return grad_x.to(x.dtype), grad_weight, grad_bias if ctx.has_bias else None, None, None


def average_running_statistics(module: nn.Module) -> None:
    """Give all processes the mean of their running statistics, in one collective.

    Needed after a step where batch-norm groups are smaller than the global batch: each process has seen its own groups
    only. Running statistics are linear in those of the groups, so this is what one process with all groups would hold.
    """
    buffers = [
        buffer for norm in norms_of(module) for buffer in (norm.running_mean, norm.running_var) if buffer is not None
    ]
    if process_count() == 1 or not buffers:
        return
    flat = torch.cat([buffer.view(-1) for buffer in buffers])
    begin_collective("running statistics of batch norm")
    dist.all_reduce(flat)
    for buffer, mean in zip(buffers, (flat / process_count()).split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
