"""Losses that benchmarks/loss.py times: each function here makes one, of two batches of embeddings."""

import math
from collections.abc import Callable
from functools import reduce

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from simclr_dist import compat

TEMPERATURE = 0.1


def ours() -> Callable[[Tensor, Tensor], Tensor]:
    from simclr_dist.losses import NTXentLoss

    return NTXentLoss(TEMPERATURE)


def lightly() -> Callable[[Tensor, Tensor], Tensor]:
    from lightly.loss import NTXentLoss

    return NTXentLoss(TEMPERATURE, gather_distributed=dist.is_initialized())  # type: ignore[no-any-return]


def cross_entropy() -> Callable[[Tensor, Tensor], Tensor]:
    """The leanest plain form: one matrix, its diagonal masked in place."""

    def loss(z_1: Tensor, z_2: Tensor) -> Tensor:
        z = F.normalize(torch.cat((z_1, z_2)), dim=1)
        similarity = (z @ z.T).div_(TEMPERATURE)
        similarity.fill_diagonal_(-math.inf)
        return F.cross_entropy(similarity, torch.arange(len(z), device=z.device).roll(len(z) // 2))

    return loss


def torchs_autograd_gather() -> Callable[[Tensor, Tensor], Tensor]:
    """torch.distributed.nn's all_gather, as most projects use it, then this project's tiles on the local rows."""
    from torch.distributed.nn.functional import all_gather

    return autograd_gather(lambda rows: torch.cat(all_gather(rows)))


def autograd_gather(gather: Callable[[Tensor], Tensor] | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """A leaner all_gather with a gradient (one all_reduce backward), then the same tiles."""
    from simclr_dist.losses.tiles import Pairs

    class AllPairs(Pairs):
        """No tile serves its mirror image: whose gradient reaches the columns has no use for that."""

        def walk(self):  # type: ignore[no-untyped-def]
            buffer = self.rows.new_empty(self.tile * self.tile)
            for top in range(0, len(self.rows), self.tile):
                i = slice(top, min(top + self.tile, len(self.rows)))
                for left in range(0, len(self.columns), self.tile):
                    j = slice(left, min(left + self.tile, len(self.columns)))
                    yield i, j, self.pairs(i, j, buffer)

        def mirror(self, i, j):  # type: ignore[no-untyped-def]
            return None

    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(ctx, rows):  # type: ignore[no-untyped-def]
            everyone = rows.new_empty(dist.get_world_size() * rows.numel())
            compat.all_gather_single(everyone, rows.view(-1))
            return everyone.view(-1, rows.shape[1])

        @staticmethod
        def backward(ctx, gradient):  # type: ignore[no-untyped-def]
            dist.all_reduce(gradient)
            return gradient.chunk(dist.get_world_size())[dist.get_rank()]

    class LocalRows(torch.autograd.Function):
        """Mean loss of the local rows, with the gradients of rows and columns, over tiles."""

        @staticmethod
        def forward(ctx, rows, columns):  # type: ignore[no-untyped-def]
            ctx.pairs = AllPairs(columns, dist.get_rank() * len(rows), len(rows), TEMPERATURE)
            ctx.sums = ctx.pairs.forward()
            return torch.log1p(ctx.sums.negatives / ctx.sums.positives).mean()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            pairs, sums = ctx.pairs, ctx.sums
            weight = 1 / (sums.negatives + sums.positives)
            missed = -sums.negatives * weight
            of_rows, of_columns = torch.zeros_like(pairs.rows), torch.zeros_like(pairs.columns)
            for i, j, tile in pairs.walk():
                tile.mul_(weight[i, None])
                for diagonal, rows in pairs._partners(tile, i, j):
                    diagonal.copy_(missed[rows])
                of_rows[i].addmm_(tile, pairs.columns[j])
                of_columns[j].addmm_(tile.T, pairs.rows[i])
            factor = grad / (TEMPERATURE * len(pairs.rows))
            return of_rows * factor, of_columns * factor

    def loss(z_1: Tensor, z_2: Tensor) -> Tensor:
        rows = F.normalize(torch.cat((z_1, z_2)), dim=1)
        return LocalRows.apply(rows, gather(rows) if gather else Gather.apply(rows))  # type: ignore[no-any-return]

    return loss


def autograd_tiles() -> Callable[[Tensor, Tensor], Tensor]:
    """torch.distributed.nn's all_gather and tiles of the same size written in plain torch: autograd differentiates
    them, each computed again in the backward pass so that no more memory is held than by ours.
    """
    from torch.distributed.nn.functional import all_gather
    from torch.utils.checkpoint import checkpoint

    from simclr_dist.losses import tiles

    def negatives(rows: Tensor, columns: Tensor, excluded: Tensor) -> Tensor:
        similarity = (rows @ columns.T - 1) / TEMPERATURE
        return similarity.masked_fill(excluded, -math.inf).exp().sum(1)

    def loss(z_1: Tensor, z_2: Tensor) -> Tensor:
        rows, tile = F.normalize(torch.cat((z_1, z_2)), dim=1), tiles._CPU_TILE
        columns = torch.cat(all_gather(rows))
        own = torch.arange(len(rows)) + dist.get_rank() * len(rows)
        everyone = torch.arange(len(columns))
        positives = ((rows * rows.roll(len(rows) // 2, 0)).sum(1) - 1) / TEMPERATURE
        parts = [
            reduce(
                torch.add,
                (
                    checkpoint(negatives, mine, theirs, number[:, None] == other, use_reentrant=False)
                    for theirs, other in zip(columns.split(tile), everyone.split(tile), strict=True)
                ),
            )
            for mine, number in zip(rows.split(tile), own.split(tile), strict=True)
        ]
        return (torch.cat(parts).log() - positives).mean()

    return loss


def tile_products() -> Callable[[Tensor, Tensor], Tensor]:
    """The matrix products that the tiles of ours need, and nothing else (a loss without a meaning)."""
    from simclr_dist.losses import tiles

    tile = tiles._CPU_TILE

    def products(z_1: Tensor, z_2: Tensor) -> Tensor:
        z, whole = torch.cat((z_1, z_2)).detach(), torch.empty(tile * tile)
        gradient = torch.zeros_like(z)
        for top in range(0, len(z), tile):
            for left in range(top, len(z), tile):
                i, j = slice(top, min(top + tile, len(z))), slice(left, min(left + tile, len(z)))
                buffer = whole[: (i.stop - top) * (j.stop - left)].view(i.stop - top, j.stop - left)
                torch.mm(z[i], z[j].T, out=buffer)
                torch.mm(z[i], z[j].T, out=buffer)
                gradient[i].addmm_(buffer, z[j])
                if i != j:
                    gradient[j].addmm_(buffer.T, z[i])
        return gradient.sum() + 0 * z_1.sum()

    return products


CONTENDERS = {"ours": ours, "lightly": lightly, "cross-entropy": cross_entropy, "tile products": tile_products}
DISTRIBUTED = {
    "ours": ours,
    "lean autograd gather": autograd_gather,
    "torch's autograd gather": torchs_autograd_gather,
    "autograd gather, tiles": autograd_tiles,
    "lightly": lightly,
}
