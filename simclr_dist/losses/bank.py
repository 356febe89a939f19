"""Similarities with the rows of a bank, in tiles: what is gathered or multiplied at once is at most 16 MiB in float32.

A bank (rows by sample id, a queue, the keys of a global batch) gets no gradient. That of ImageNet has 1.28 million
rows: scores of a share of 256 images with all of them would be 1.3 GB, and the rows of 4096 noise samples of each image
0.5 GB, both once more for the gradient.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TILE_NUMBERS = 1 << 22


def sampled_scores(rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """The product of each row with some rows of the bank, (rows, k).

    Args:
        rows: (rows, d); the gradient reaches them.
        bank: (N, d). It must not move before the backward pass.
        index: int64 (rows, k), which rows of the bank.
    """
    scores: Tensor = _SampledScores.apply(rows, bank, index)
    return scores


def log_sum_exp(
    rows: Tensor, bank: Tensor, temperature: float, positives: Tensor, own: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Over the whole bank, log of the sum of exp(row.bank / T), and how many scores are no less than the positive's.

    Args:
        rows: (rows, d); the gradient reaches them.
        bank: (N, d). It must not move before the backward pass.
        temperature: T.
        positives: (rows,), the score of each row's positive, over T.
        own: int64 (rows,), which row of the bank is that positive, and is not counted. None: it is not in the bank.

    Returns:
        (rows,), and int64 (rows,) without a gradient.
    """
    total, rank = _LogSumExp.apply(rows, bank, temperature, positives, own)
    return total, rank


class _SampledScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, bank: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(bank, index)
        scores = rows.new_empty(index.shape)
        for i, j in _blocks(index, bank.shape[1]):
            scores[i, j] = torch.bmm(_taken(bank, index[i, j], rows), rows[i, :, None])[:, :, 0]
        return scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        bank, index = ctx.saved_tensors
        (gradient,) = gradients
        of_rows = gradient.new_zeros(len(gradient), bank.shape[1])
        for i, j in _blocks(index, bank.shape[1]):
            of_rows[i] += torch.bmm(gradient[i, None, j], _taken(bank, index[i, j], gradient))[:, 0]
        return of_rows, None, None


def _taken(bank: Tensor, index: Tensor, like: Tensor) -> Tensor:
    taken: Tensor = bank[index.flatten()].to(like.dtype).view(*index.shape, bank.shape[1])
    return taken


def _blocks(index: Tensor, dim: int) -> Iterator[tuple[slice, slice]]:
    """Parts of an index (rows, k) whose rows of the bank are at most a tile."""
    columns = min(index.shape[1], max(1, TILE_NUMBERS // dim))
    rows = max(1, TILE_NUMBERS // (columns * dim))
    for top in range(0, len(index), rows):
        for left in range(0, index.shape[1], columns):
            yield slice(top, top + rows), slice(left, left + columns)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, bank: Tensor, temperature: float, positives: Tensor, own: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        largest, total = rows.new_full((len(rows), 1), -torch.inf), rows.new_zeros(len(rows), 1)
        rank = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        flags: Tensor | None = None  # 1 where a score counts; bools are summed through a copy in int64
        for first, tile, scores in _scored(bank, rows, temperature):
            flags = torch.empty_like(scores) if flags is None else flags[:, : len(tile)]
            torch.ge(scores, positives[:, None], out=flags)
            if own is not None:
                flags *= torch.arange(first, first + len(tile), device=own.device) != own[:, None]
            rank += flags.sum(1).long()
            new = torch.maximum(largest, scores.amax(1, keepdim=True))
            total = total * (largest - new).exp() + scores.sub_(new).exp_().sum(1, keepdim=True)
            largest = new
        found = (largest + total.log())[:, 0]
        ctx.save_for_backward(rows, bank, found)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(rank)
        return found, rank

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        rows, bank, found = ctx.saved_tensors
        of_rows = torch.zeros_like(rows)
        for _, tile, scores in _scored(bank, rows, ctx.temperature):
            of_rows.addmm_(scores.sub_(found[:, None]).exp_(), tile)
        return of_rows.mul_(gradients[0][:, None] / ctx.temperature), None, None, None, None


def _scored(bank: Tensor, rows: Tensor, temperature: float) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first row, rows of the bank, their scores over T), so many that either is at most a tile.

    The scores are overwritten by the next.
    """
    size = min(len(bank), max(1, TILE_NUMBERS // max(rows.shape)))
    buffer = rows.new_empty(len(rows) * size)
    for first in range(0, len(bank), size):
        tile = bank[first : first + size].to(rows.dtype)
        scores = buffer[: len(rows) * len(tile)].view(len(rows), len(tile))
        yield first, tile, torch.mm(rows, tile.T, out=scores).div_(temperature)
