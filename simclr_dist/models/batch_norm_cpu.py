"""Batch norm of groups on a CPU, through torch's native kernels with given statistics (docs/design/batch_norm.md).

Those kernels add a channel's elements one after the other in float32 where the channels of a pixel stand together in
memory (``channels_last``, and the features of a head) and wherever the input is in half precision: off by 1e-6 to 1e-4
after tens of thousands. Here such rows are *folded*: k rows that are neighbours in memory are one row of k times the
channels, a view. The same kernels then add few elements, in vectors that are wide, and the k parts of each channel are
joined afterwards.
"""

import torch
from torch import Tensor

from simclr_dist.models.statistics_group import join_statistics

ROWS_IN_ORDER = 256  # at most so many are added one after the other
VECTOR = 1024  # elements of a folded row, at least, where there are as many: narrow ones cost calls
BLOCK = 1 << 20  # elements in half precision that are computed in float32 at a time


def sums_exactly(x: Tensor) -> bool:
    """Whether torch's kernel sums ``x`` (rows, channels, ...) as it is to float32 rounding: in float64, or few."""
    return _fold(x, 1) == 1


def statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance."""
    fold = _fold(x, groups)
    rows = _by_group(x, groups, fold)
    # The kernel's results are of the type of the running statistics that it moves: those of half precision are float32.
    unused = rows.new_zeros((2, rows.shape[2]), dtype=_precision(x))
    of_groups = [torch.batch_norm_update_stats(group, unused[0], unused[1], 0.0) for group in rows]
    means, variances = (torch.stack(parts) for parts in zip(*of_groups, strict=True))
    if fold == 1:
        return means, variances
    return join_statistics(means.view(groups, fold, -1), variances.view(groups, fold, -1), dim=1)


def normalise(x: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
    """``(x - mean) * inverse * weight + bias``."""
    scale = inverse * weight
    return _scaled(x, scale, -mean * scale if bias is None else bias - mean * scale, _fold(x, len(mean)))


def _scaled(x: Tensor, scale: Tensor, shift: Tensor, fold: int) -> Tensor:
    """``x * scale + shift`` in one pass, both (groups, channels)."""
    y = torch.empty_like(x)
    rows, made = (_by_group(tensor, len(scale), fold) for tensor in (x, y))
    if _foldable(x) and x.dtype == scale.dtype:
        torch.addcmul(_against(rows, shift, fold), rows, _against(rows, scale, fold), out=made)
        return y
    # A vectorised pass over the pixels of a channel, or in half precision, is in torch's evaluation form alone:
    # (group - 0) / sqrt(1 + 0) * scale + shift.
    scales, shifts = _folded(scale, fold), _folded(shift, fold)
    zeros, ones, empty = torch.zeros_like(scales[0]), torch.ones_like(scales[0]), scale.new_empty(0)
    for number, group in enumerate(rows):
        torch.ops.aten.native_batch_norm.out(
            group, scales[number], shifts[number], zeros, ones, False, 0.0, 0.0,
            out=made[number], save_mean=empty, save_invstd=empty,
        )  # fmt: skip
    return y


def gradient_sums(grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of ``grad`` and of ``grad * (x - mean)``."""
    fold = _fold(x, len(mean))
    means = _folded(mean, fold)
    ones = torch.ones_like(means[0])
    of_groups = [
        # Those sums are what torch calls the gradients of the offset and, with a deviation of 1, of the gain.
        torch.ops.aten.native_batch_norm_backward(
            grad_group, group, ones, None, None, means[number], ones, True, 0.0, [False, True, True]
        )[1:]
        for number, (grad_group, group) in enumerate(
            zip(_by_group(grad, len(mean), fold), _by_group(x, len(mean), fold), strict=True)
        )
    ]
    sum_grad_x, sum_grad = (torch.stack(parts) for parts in zip(*of_groups, strict=True))
    if fold > 1:
        sum_grad_x, sum_grad = (parts.view(len(mean), fold, -1).sum(1) for parts in (sum_grad_x, sum_grad))
    return sum_grad, sum_grad_x


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
    scale = weight * inverse
    slope = -scale * inverse**2 * sum_grad_x / count
    shift = -scale * sum_grad / count - slope * mean
    groups = len(mean)
    if x.dtype == scale.dtype:
        fold = _fold(x, groups)
        made = _scaled(x, slope, shift, fold)
        out = _by_group(made, groups, fold)
        out.addcmul_(_by_group(grad, groups, fold), _against(out, scale, fold))
        return made
    fold = _fold(x, groups) if _foldable(x) else 1
    made = torch.empty_like(x)
    grad, x, out = (_by_group(tensor, groups, fold) for tensor in (grad, x, made))
    scale, slope, shift = (_against(x, values, fold) for values in (scale, slope, shift))
    rows = max(1, BLOCK * groups * x.shape[1] // x.numel())
    for number in range(groups):
        blocks = zip(*(tensor[number].split(rows) for tensor in (grad, x, out)), strict=True)
        for grad_block, x_block, out_block in blocks:
            out_block.copy_(torch.addcmul(shift[number], x_block, slope[number]).addcmul_(grad_block, scale[number]))
    return made


def _precision(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _foldable(x: Tensor) -> bool:
    """Whether the channels of a pixel stand together in memory; ``x`` has no gaps."""
    return x.shape[1] == 1 or x.stride(1) == 1


def _by_group(x: Tensor, groups: int, fold: int) -> Tensor:
    """``x`` (rows, channels, ...) with ``fold`` neighbours as one: a view (groups, n, fold * channels, ...)."""
    channels = fold * x.shape[1]
    if _foldable(x):
        return x.movedim(1, -1).view(groups, -1, channels)
    return x.view(groups, len(x) // groups // fold, channels, *x.shape[2:])


def _folded(values: Tensor, fold: int) -> Tensor:
    """(groups, channels) for the rows of :func:`_by_group`: (groups, fold * channels), each in memory of its own.

    Of one channel the reshaping is a view of stride 0, which torch's backward kernel reads as if it had no gaps.
    """
    return values if fold == 1 else values.unsqueeze(1).expand(-1, fold, -1).reshape(len(values), -1).contiguous()


def _against(rows: Tensor, values: Tensor, fold: int) -> Tensor:
    """(groups, channels) in the dimensions of ``rows`` of :func:`_by_group`."""
    return _folded(values, fold).view(len(values), 1, -1, *(1,) * (rows.dim() - 3))


def _fold(x: Tensor, groups: int) -> int:
    """How many neighbours are one, so that torch's kernel sums exactly."""
    rows = len(x) // groups
    if not _foldable(x):
        return 1 if x.dtype == _precision(x) else rows  # float32 is summed in float64 where channels stand apart
    rows *= x[0, 0].numel()
    # The least divisor that leaves few rows, and wide ones.
    fold = min(rows, max(-(-rows // ROWS_IN_ORDER), -(-VECTOR // x.shape[1])))
    while rows % fold:
        fold += 1
    return fold
