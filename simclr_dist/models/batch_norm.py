"""Batch norm whose statistics are taken over a stated number of images, wherever these images are.

A group may be a part of a process's rows, exactly its rows, or the rows of several processes. torch's SyncBatchNorm
refuses CPU tensors and knows only whole processes. Here groups and processes are joined by the same code on every
device, around the device's own kernels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.distributed.collectives import process_count, sum_in_place
from simclr_dist.errors import AgreedError
from simclr_dist.models.batch_norm_function import BatchNormOfGroups, elements_of_group, rectifies, serves_by_torch
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

    def forward(self, x: Tensor, added: Tensor | None = None, *, rectified: bool = False) -> Tensor:
        """Normalised ``x``, of the same shape; ``rectified``: ``relu(normalised + added)``, in one pass on a GPU.

        Raises:
            ValueError: the rows do not divide into the groups.
            AgreedError: in training, a group has one value of each channel.
        """
        group = self.statistics
        if self.training and elements_of_group(x, group) == 1:
            # torch's own refuses it too, but is not called with several groups a process: their number decided.
            raise AgreedError(
                f"recipe.batch_norm_group_images: batch norm of {self.num_features} channels has one value of each in "
                "a group, and makes it 0 whatever it was; take larger groups, or 0 for the whole global batch"
            )
        whole = group.local_groups == 1 and not group.spans_processes
        if not self.training or (whole and serves_by_torch(x)):
            return _rectified(self._by_torch(x), added) if rectified else self._by_torch(x)
        if len(x) % group.local_groups:
            raise ValueError(f"{len(x)} rows do not divide into {group.local_groups} batch-norm groups")
        weight = torch.ones_like(self.running_mean) if self.weight is None else self.weight
        together = rectified and rectifies(x, added)
        y, mean, variance = BatchNormOfGroups.apply(
            x, weight, self.bias, self.eps, group, added if together else None, together
        )
        with torch.no_grad():
            count = elements_of_group(x, group)
            self.meet(mean.mean(0), variance.mean(0) * (count / max(1, count - 1)))
        return _rectified(y, added) if rectified and not together else y

    def _by_torch(self, x: Tensor) -> Tensor:
        """Evaluation, or one group that is exactly these rows where torch's own kernel is exact: that one."""
        if not self.training or (self.seen is None and not self.held):
            return super().forward(x)
        # Stand-ins for the running ones, also when held: a recomputation must save as many tensors as the first pass.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)  # type: ignore[arg-type]
        y: Tensor = F.batch_norm(x, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
        self.meet(mean, variance)
        return y

    def meet(self, mean: Tensor, variance: Tensor) -> None:
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
        # As torch's kernel moves them: unseen by autograd, which keeps them for the backward pass of an earlier call of
        # this step (crops of another size) and does not need them there.
        self.running_mean.data.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.data.lerp_(variance.to(self.running_var.dtype), self.momentum)


def normalised_and_rectified(norm: nn.Module, x: Tensor, added: Tensor | None = None) -> Tensor:
    """``relu(norm(x) + added)``, whatever kind of batch norm it is."""
    made: Tensor = norm(x, added, rectified=True) if isinstance(norm, GroupedBatchNorm) else _rectified(norm(x), added)
    return made


def _rectified(y: Tensor, added: Tensor | None) -> Tensor:
    """In the place of ``y``, as torchvision's blocks do it."""
    return torch.relu_(y if added is None else y.add_(added))


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
def statistics_collected(module: nn.Module) -> Iterator[list[tuple[GroupedBatchNorm, Tensor, Tensor]]]:
    """Inside, forward passes leave the running statistics alone, whatever was said of them outside.

    The list has those of each call then, norm by norm.
    """
    norms = norms_of(module)
    before = [(norm.held, norm.seen) for norm in norms]
    found: list[tuple[GroupedBatchNorm, Tensor, Tensor]] = []
    for norm in norms:
        norm.held, norm.seen = False, []
    try:
        yield found
    finally:
        for norm, (held, seen) in zip(norms, before, strict=True):
            found += [(norm, *each) for each in norm.seen or []]
            norm.held, norm.seen = held, seen


@contextmanager
def statistics_of_one_pass(module: nn.Module, chunks: int) -> Iterator[None]:
    """Inside, the forward passes of so many chunks of equal size count as one: the running statistics move as there.

    A norm may be called several times a chunk (crops of two sizes): the first calls of all chunks are together what
    the first call of the whole is, then the second ones.
    """
    with statistics_collected(module) as found:
        yield
    for norm, of_norm in groupby(found, key=itemgetter(0)):
        seen = [(mean, variance) for _, mean, variance in of_norm]
        calls = len(seen) // chunks
        for number in range(calls):
            of_call = seen[number::calls]
            norm.meet(*(torch.stack(values).mean(0) for values in zip(*of_call, strict=True)))


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
    sum_in_place(flat, label="running statistics of batch norm")
    means = (flat / process_count()).split([buffer.numel() for buffer in buffers])
    copy_all(buffers, [mean.view_as(buffer) for buffer, mean in zip(buffers, means, strict=True)])


def copy_all(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy tensors, which may be none, into others of the same types on the same devices.

    One call a kind: torch copies a list in a few kernels only where all of it is of one type on one device, and beside
    the float32 statistics stand whole numbers of batches, beside AdamW's moments its steps on the CPU.
    """
    kinds: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], list[Tensor]]] = {}
    for place, value in zip(into, values, strict=True):
        places, copied = kinds.setdefault((place.dtype, place.device), ([], []))
        places.append(place)
        copied.append(value)
    for places, copied in kinds.values():
        torch._foreach_copy_(places, copied)
