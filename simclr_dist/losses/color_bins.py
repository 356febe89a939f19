"""Colours as classes: the bins of a and b, what pixels say of them, how rare each is, and colours of their chances.

Zhang, Isola and Efros 2016 (arXiv 1603.08511), section 2.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

GRID = 10
"""Side of a bin in units of a and b."""
LIGHTNESSES = 100
"""Classes of L, of one unit each."""
GREY = 5
"""An image none of whose pixels has a colour |a| or |b| above this is grey."""

# Of each a, -90 to 100 in steps of GRID, the smallest and the largest b.
_EXTENTS = (
    (50, 90), (20, 90), (0, 90), (-20, 90), (-30, 100), (-40, 100), (-50, 100), (-50, 100), (-60, 100), (-70, 100),
    (-80, 90), (-80, 90), (-90, 90), (-100, 90), (-100, 80), (-110, 80), (-110, 80), (-110, 70), (-110, 70), (-90, 0),
)  # fmt: skip


def bin_centres() -> Tensor:
    """a and b of each bin, float64 (313, 2), ordered by a, then by b.

    They are the corners of all cells of the grid that meet the convex hull of what sRGB can show.
    """
    pairs = [
        (a, b)
        for a, (first, last) in zip(range(-90, 101, GRID), _EXTENTS, strict=True)
        for b in range(first, last + 1, GRID)
    ]
    return torch.tensor(pairs, dtype=torch.float64)


class Encoded(NamedTuple):
    """Pixels' colours as shares of their nearest bins."""

    bins: Tensor
    """int64 (..., neighbours), the nearest first."""
    shares: Tensor
    """(..., neighbours); they sum to 1."""


def soft_encoding(colors: Tensor, centres: Tensor, neighbours: int = 5, sigma: float = 5.0) -> Encoded:
    """Each of the colours (..., 2) as its nearest bins, weighted by a Gaussian of the distance."""
    # |x - c|^2 in full, not by a product: its rounding is that of the distance, and no matrix unit rounds it more.
    a, b = (colors[..., channel, None] - centres[:, channel] for channel in range(2))
    nearest = (a * a + b * b).topk(neighbours, largest=False)
    # Above the smallest: no underflow where all are far, and the shares are the same.
    weights = torch.exp((nearest.values[..., :1] - nearest.values) / (2 * sigma**2))
    return Encoded(nearest.indices, weights / weights.sum(-1, keepdim=True))


def rebalancing_weights(prior: Tensor, uniform_share: float) -> Tensor:
    """Of each bin, (bins,): the inverse of its chance in the data mixed with the uniform one, 1 in the mean over the
    data (equation 4)."""
    weights = 1 / ((1 - uniform_share) * prior + uniform_share / len(prior))
    return weights / (prior * weights).sum()


def annealed_mean(log_chances: Tensor, centres: Tensor, temperature: float = 0.38) -> Tensor:
    """Colours (..., 2) of the logarithms of the bins' chances (..., bins), up to a constant: the mean over chances that
    are sharpened by the temperature (equation 5)."""
    return F.softmax(log_chances / temperature, dim=-1) @ centres.to(log_chances)


def colors_of_cells(lab: Tensor, side: tuple[int, int]) -> Tensor:
    """a and b (rows, cells, 2), row by row, of L, a and b (rows, 3, h, w): the mean over each cell of a map."""
    return F.adaptive_avg_pool2d(lab[:, 1:], side).flatten(2).transpose(1, 2)


def lightness_classes(lab: Tensor, side: tuple[int, int]) -> Tensor:
    """The lightness of each cell of a map, in 100 classes, int64 (rows, cells), of L, a and b (rows, 3, h, w)."""
    means = F.adaptive_avg_pool2d(lab[:, :1], side).flatten(1)
    return means.floor().clamp(0, LIGHTNESSES - 1).long()


def is_colored(lab: Tensor) -> Tensor:
    """Whether a pixel of an image is coloured, bool (rows,), of L, a and b (rows, 3, h, w)."""
    return (lab[:, 1:].abs() > GREY).flatten(1).any(1)
