"""Sums of batch norm over the rows of groups, equally exact in every memory layout (docs/design/batch_norm.md).

torch's CPU kernel adds rows one after the other where the channels of a pixel stand together in memory
(``channels_last``, and the features of a head): in float32 its statistics are off by 1e-6 after tens of thousands of
rows. Here such rows are *folded*: k rows that are neighbours in memory are one row of k times the channels, a view. The
same kernel then adds few rows, in vectors that are wide, and the k parts of each channel are joined afterwards.
"""

from functools import lru_cache

import torch
from torch import Tensor

ROWS_IN_ORDER = 256  # at most so many are added one after the other
VECTOR = 1024  # elements of a folded row, at least, where there are as many: narrow ones cost calls


def foldable(x: Tensor) -> bool:
    """Whether torch's CPU kernel would add the rows of ``x`` (rows, channels, ...) one after the other."""
    return x.device.type == "cpu" and x.movedim(1, -1).is_contiguous()


def by_group(x: Tensor, groups: int, folded: bool) -> Tensor:
    """``x`` (rows, channels, ...) as (groups, rows of a group, channels, ...), or folded: (groups, n, k * channels).

    Without a copy, if ``x`` lies in memory as ``folded`` says.
    """
    if not folded:
        return x.view(groups, len(x) // groups, *x.shape[1:])
    channels = x.shape[1]
    rows = x.numel() // channels // groups
    fold = _fold(rows, channels)
    return x.movedim(1, -1).reshape(groups, rows // fold, fold * channels)


def spread(values: Tensor, rows: Tensor) -> Tensor:
    """(groups, channels) so that it broadcasts over ``rows`` of :func:`by_group`."""
    fold = rows.shape[2] // values.shape[1]
    if fold > 1:
        values = values.repeat(1, fold)
    return values.view(len(values), 1, rows.shape[2], *(1,) * (rows.dim() - 3))


def statistics(rows: Tensor, channels: int, folded: bool) -> tuple[Tensor, Tensor]:
    """Variance (biased) and mean of each group and channel, (groups, channels)."""
    if not folded:
        variance, mean = torch.var_mean(rows, dim=_reduced(rows), correction=0)
        return variance, mean
    of_groups = [torch.batch_norm_update_stats(group, None, None, 0.0) for group in rows]
    # Chan's rule for equal counts: no sum of squares, so no cancellation when the mean is large.
    means, variances = (torch.stack(parts).unflatten(1, (-1, channels)) for parts in zip(*of_groups, strict=True))
    return variances.mean(1) + means.var(1, correction=0), means.mean(1)


def gradient_sums(grad: Tensor, rows: Tensor, mean: Tensor, inverse: Tensor, folded: bool) -> tuple[Tensor, Tensor]:
    """Sums of ``grad`` and of ``grad * (rows - mean) * inverse`` of each group and channel, (groups, channels)."""
    if not folded:
        reduced = _reduced(rows)
        return grad.sum(reduced), (grad * (rows - spread(mean, rows))).sum(reduced) * inverse
    means, inverses = spread(mean, rows), spread(inverse, rows)
    of_groups = [
        # Those two sums are what torch calls the gradients of the offset and of the gain.
        torch.ops.aten.native_batch_norm_backward(
            grad[number], rows[number], None, None, None, means[number, 0], inverses[number, 0],
            True, 0.0, [False, True, True],
        )[1:]
        for number in range(len(rows))
    ]  # fmt: skip
    sum_grad_x, sum_grad = (
        torch.stack(parts).unflatten(1, (-1, mean.shape[1])).sum(1) for parts in zip(*of_groups, strict=True)
    )
    return sum_grad, sum_grad_x


def _reduced(rows: Tensor) -> list[int]:
    return [dim for dim in range(rows.dim()) if dim not in (0, 2)]


@lru_cache
def _fold(rows: int, channels: int) -> int:
    """How many rows are one: the least divisor of ``rows`` that leaves few of them, and wide ones."""
    fold = min(rows, max(-(-rows // ROWS_IN_ORDER), -(-VECTOR // channels)))
    while rows % fold:
        fold += 1
    return fold
