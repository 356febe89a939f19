"""NT-Xent over the global batch, with the exact gradient at any number of processes.

With unit rows z_i, s_ij = z_i.z_j / T, p_ij = softmax over j != i, pos(i) the other view of the same image and N = 2B
rows (Chen et al. 2020, equation 1, averaged over all rows):

    L = 1/N sum_i -log p_i,pos(i)        dL/dz_i = 1/(N T) sum_j (p_ij + p_ji - 2 [j = pos(i)]) z_j

p_ji needs only s_ji = s_ij and row j's log-sum-exp, so two gathers in the forward pass (the rows; then a few numbers a
row) give each process the whole gradient of its own rows, and the backward pass needs no communication. Both passes
stream over tiles in O(B d) memory: by a kernel (``pair_kernel.py``) on a GPU that it is proved for, else by torch's own
operations (``tiles.py``). The negatives are summed apart from the positive: 1 - p_pos =
negatives / (negatives + positive), so nothing cancels when the pairs are well separated.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from simclr_dist.distributed.collectives import gather_stacked, process_count, process_rank
from simclr_dist.losses.pair_kernel import KernelPairs, available, normalised, refusal
from simclr_dist.losses.tiles import Pairs, PairSums

Way = Literal["auto", "kernel", "tiles"]
"""What sums over pairs: the kernel where it is :func:`available` and tiles elsewhere, or one of them whatever."""

_SMALLEST_NORM = 1e-12  # as torch's normalize: an embedding of zeros stays zeros


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

    def __init__(self, temperature: float = 0.1, group: dist.ProcessGroup | None = None, pairs: Way = "auto") -> None:
        """Raises ValueError for a temperature below 1/700, where float64 overflows."""
        super().__init__()
        _require_no_overflow(temperature)
        self.temperature, self.group, self.pairs = temperature, group, pairs
        self._agreed_rows: int | None = None

    def forward(self, z_1: Tensor, z_2: Tensor) -> Tensor:
        """The loss, a scalar, equal on all processes.

        Raises:
            ValueError: shapes that differ between the views or (checked at the first call) between processes.
        """
        if self._agreed_rows is None:
            _require_equal_rows(z_1, self.group)
            self._agreed_rows = len(z_1)
        return nt_xent(z_1, z_2, self.temperature, self.group, self.pairs).loss


def nt_xent(
    z_1: Tensor, z_2: Tensor, temperature: float, group: dist.ProcessGroup | None = None, pairs: Way = "auto"
) -> NTXentResult:
    """As :class:`NTXentLoss`, with the metrics; all processes must give the same number of rows.

    Raises:
        ValueError: z_1 and z_2 are not two matrices of one shape, the temperature is below 1/700, where float64
            overflows, or ``pairs`` is "kernel" and it cannot sum these.
    """
    _require_no_overflow(temperature)
    if z_1.dim() != 2 or z_1.shape != z_2.shape:
        raise ValueError(f"z_1 and z_2 must be of one shape (images, d), got {tuple(z_1.shape)} and {tuple(z_2.shape)}")
    with torch.autocast(z_1.device.type, enabled=False):
        raw = torch.cat((z_1, z_2)).to(torch.promote_types(z_1.dtype, torch.float32))
        processes = process_count(group)
        if pairs == "kernel" and (reason := refusal(raw, temperature, processes)):
            raise ValueError(f"no kernel for these pairs: {reason}")
        by_kernel = pairs == "kernel" or (pairs == "auto" and available(raw, temperature, processes))
        way = _ByKernel if by_kernel else _ByTiles
        # Triton starts its programs on the current device, whichever the rows are on.
        with torch.cuda.device_of(raw) if by_kernel else nullcontext():
            loss, shown, std = way.apply(raw, temperature, group)
    top1, top5, rank = shown.unbind()
    return NTXentResult(loss, top1, top5, rank, std)


def _require_no_overflow(temperature: float) -> None:
    if not temperature >= 1 / 700:
        raise ValueError(f"temperature must be at least 1/700, got {temperature}")


def _require_equal_rows(z: Tensor, group: dist.ProcessGroup | None) -> None:
    own = torch.tensor([len(z)], device=z.device)
    sizes = gather_stacked(own, group, label="row counts of the loss").flatten().tolist()
    if len(set(sizes)) > 1:
        raise ValueError(f"every process must hold the same number of images, got {sizes}; drop the last partial batch")


class _ByKernel(torch.autograd.Function):
    """As :class:`_ByTiles`, by Triton's programs, seven of them and hardly anything between."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, temperature: float, group: dist.ProcessGroup | None) -> Any:
        rows, ctx.norm = normalised(raw, _SMALLEST_NORM)
        columns = gather_stacked(rows, group, label="rows of the loss").flatten(0, 1)
        ctx.pairs = pairs = KernelPairs(columns, process_rank(group) * len(rows), len(rows), temperature)
        parts = pairs.sums()
        ctx.processes = process_count(group)
        if ctx.processes > 1:  # fewer numbers to gather
            parts = parts.sum(1, keepdim=True)
        loss, shown = pairs.loss(gather_stacked(parts, group, label="sums of the loss"))
        ctx.mark_non_differentiable(shown, pairs.std)
        return loss, shown, pairs.std

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        return ctx.pairs.gradient(ctx.norm, grad_loss, ctx.processes), None, None


class _ByTiles(torch.autograd.Function):
    """Rows (2 x local images, d), view 1 first -> loss; top1, top5 and the mean rank of all rows; embedding_std.

    Normalises them itself: autograd's own way back through a normalisation takes twice the passes over memory.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, temperature: float, group: dist.ProcessGroup | None) -> Any:
        # Divided in float64, so that rows are rounded once; in parts, as torch makes a float64 copy of what it divides.
        ctx.norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True, dtype=torch.float64).clamp_min_(_SMALLEST_NORM)
        rows = torch.empty_like(raw)
        for part, norm, out in zip(raw.split(4096), ctx.norm.split(4096), rows.split(4096), strict=True):
            torch.div(part, norm, out=out)
        ctx.norm = ctx.norm.to(raw.dtype)
        columns = gather_stacked(rows, group, label="rows of the loss").flatten(0, 1)
        # No temporary of the size of the batch: all that counts here is memory.
        variance = torch.linalg.vector_norm(columns, dim=0).square() / len(columns) - columns.mean(0).square()
        std = variance.clamp_min(0).sqrt().mean() * columns.shape[1] ** 0.5
        ctx.pairs = Pairs(columns, process_rank(group) * len(rows), len(rows), temperature)
        ctx.sums = ctx.pairs.forward()
        parts = torch.stack((ctx.sums.negatives, ctx.sums.positives, ctx.sums.rank))
        gathered = gather_stacked(parts, group, label="sums of the loss")
        ctx.all_sums = everyone = PairSums(*gathered.transpose(0, 1).flatten(1))
        ctx.processes = process_count(group)
        # Negatives apart from the positive, so that nothing cancels when the pairs are well separated.
        separated = torch.log1p(everyone.negatives / everyone.positives)
        mixed = (everyone.negatives + everyone.positives).log() - everyone.positives.log()
        loss = torch.where(everyone.negatives < everyone.positives, separated, mixed).mean().to(rows.dtype)
        rank = everyone.rank
        shown = torch.stack([x.double().mean() for x in (rank < 1, rank < 5, rank)])
        ctx.mark_non_differentiable(shown, std)
        return loss, shown, std

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Any) -> tuple[Tensor, None, None]:
        gradient = ctx.pairs.gradient(ctx.sums, ctx.all_sums).to(grad_loss.dtype)
        # Through z = x / |x|: what is along z is lost.
        rows = ctx.pairs.rows.to(grad_loss.dtype)
        gradient.addcmul_(rows, torch.linalg.vecdot(gradient, rows)[:, None], value=-1)
        return gradient.div_(ctx.norm).mul_(grad_loss * ctx.processes / len(ctx.pairs.columns)), None, None
