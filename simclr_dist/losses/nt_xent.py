"""NT-Xent over the global batch, with the exact gradient at any number of processes.

With unit rows z_i, s_ij = z_i.z_j / T, p_ij = softmax over j != i, pos(i) the other view of the same image and N = 2B
rows (Chen et al. 2020, equation 1, averaged over all rows):

    L = 1/N sum_i -log p_i,pos(i)        dL/dz_i = 1/(N T) sum_j (p_ij + p_ji - 2 [j = pos(i)]) z_j

p_ji needs only s_ji = s_ij and row j's log-sum-exp, so two gathers in the forward pass (the rows; then a few numbers a
row) give each process the whole gradient of its own rows, and the backward pass needs no communication.

Numerics: the negatives are summed apart from the positive. -log p_pos = softplus(negatives - positive) and
1 - p_pos = sigmoid(negatives - positive), where negatives is their log-sum-exp, so nothing cancels when the pairs are
well separated, and nothing overflows at any temperature.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank

_BLOCK_ELEMENTS = 1 << 22  # of the similarity matrix at once: 16 MiB in float32


@dataclass(frozen=True)
class NTXentResult:
    """The loss and what the same pass shows, over the global batch; equal on every process."""

    loss: Tensor
    """Scalar; its gradient reaches this process's rows, times the number of processes, as DDP's mean needs."""
    top1: Tensor
    """Share of rows whose positive is more similar than every negative."""
    top5: Tensor
    """Share of rows whose positive is among the five most similar."""
    positive_rank_mean: Tensor
    """Mean number of negatives that are more similar than the positive."""
    embedding_std: Tensor
    """Standard deviation of the unit embeddings times sqrt(d): 1 when they fill the sphere, 0 when collapsed."""


class NTXentLoss(nn.Module):
    """Mean NT-Xent over the 2B rows of the global batch.

    ``NTXentLoss(temperature)(z_1, z_2)``: z_1 and z_2 of shape (local images, d), row i of both from the same image,
    not yet normalised. In an initialised process group (``group``, None: the default one) the batch is that of all
    processes, and the gradient is the exact one under DistributedDataParallel, which averages gradients.
    """

    def __init__(self, temperature: float = 0.1, group: dist.ProcessGroup | None = None) -> None:
        """Raises ValueError for a temperature that is not above 0."""
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature, self.group = temperature, group
        self._agreed_rows: int | None = None

    def forward(self, z_1: Tensor, z_2: Tensor) -> Tensor:
        """The loss, a scalar, equal on all processes.

        Raises:
            ValueError: shapes that differ between the views or (checked at the first call) between processes.
        """
        if self._agreed_rows is None:
            _require_equal_rows(z_1, self.group)
            self._agreed_rows = len(z_1)
        return nt_xent(z_1, z_2, self.temperature, self.group).loss


def nt_xent(z_1: Tensor, z_2: Tensor, temperature: float, group: dist.ProcessGroup | None = None) -> NTXentResult:
    """As :class:`NTXentLoss`, with the metrics; all processes must give the same number of rows.

    Raises:
        ValueError: z_1 and z_2 are not two matrices of one shape.
    """
    if z_1.dim() != 2 or z_1.shape != z_2.shape:
        raise ValueError(f"z_1 and z_2 must be of one shape (images, d), got {tuple(z_1.shape)} and {tuple(z_2.shape)}")
    with torch.autocast(z_1.device.type, enabled=False):
        precision = torch.promote_types(z_1.dtype, torch.float32)
        rows = F.normalize(torch.cat((z_1, z_2)).to(precision), dim=1)
        loss, rank, std = _NTXent.apply(rows, temperature, group)
    return NTXentResult(loss, (rank < 1).double().mean(), (rank < 5).double().mean(), rank.double().mean(), std)


def _require_equal_rows(z: Tensor, group: dist.ProcessGroup | None) -> None:
    sizes = gather_stacked(torch.tensor([len(z)], device=z.device), group).flatten().tolist()
    if len(set(sizes)) > 1:
        raise ValueError(f"every process must hold the same number of images, got {sizes}; drop the last partial batch")


class _NTXent(torch.autograd.Function):
    """Unit rows (2 x local images, d), view 1 first -> loss, rank of the positive for all rows, embedding_std."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, temperature: float, group: dist.ProcessGroup | None) -> Any:
        columns = gather_stacked(rows, group).flatten(0, 1)
        own = process_rank(group) * len(rows) + torch.arange(len(rows), device=rows.device)
        # In every process's slot view 1 stands before view 2, so a partner is half a slot away.
        partner = own.roll(len(rows) // 2)
        negatives, positive = rows.new_empty(len(rows)), rows.new_empty(len(rows))
        rank = torch.empty_like(own)
        for block in _blocks(len(rows), len(columns)):
            similarity = rows[block] @ columns.T / temperature
            positive[block] = similarity.gather(1, partner[block, None])[:, 0]
            similarity.scatter_(1, own[block, None], -torch.inf).scatter_(1, partner[block, None], -torch.inf)
            negatives[block] = similarity.logsumexp(1)
            rank[block] = (similarity > positive[block, None]).sum(1)
        numbers = torch.stack((negatives - positive, torch.logaddexp(negatives, positive), rank.to(rows.dtype)))
        gap, log_sum, all_ranks = gather_stacked(numbers, group).transpose(0, 1).flatten(1)
        ctx.save_for_backward(rows, columns, own, partner, gap, log_sum)
        ctx.temperature, ctx.processes = temperature, process_count(group)
        std = columns.std(0, correction=0).mean() * columns.shape[1] ** 0.5
        ctx.mark_non_differentiable(all_ranks, std)
        return F.softplus(gap).mean(), all_ranks, std

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        rows, columns, own, partner, gap, log_sum = ctx.saved_tensors
        gradient = torch.empty_like(rows)
        for block in _blocks(len(rows), len(columns)):
            similarity = rows[block] @ columns.T / ctx.temperature
            pull = (similarity - log_sum[own[block], None]).exp_()
            pull += (similarity - log_sum).exp_()
            attraction = gap[own[block]].sigmoid() + gap[partner[block]].sigmoid()
            pull.scatter_(1, own[block, None], 0.0).scatter_(1, partner[block, None], -attraction[:, None])
            gradient[block] = pull @ columns
        return gradient * (grad_loss * ctx.processes / (len(columns) * ctx.temperature)), None, None


def _blocks(rows: int, columns: int) -> list[slice]:
    size = max(1, _BLOCK_ELEMENTS // columns)
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
