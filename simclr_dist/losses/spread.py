"""How much of their space embeddings fill: whether they have collapsed, to a point or to few directions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config.metric import Metric

EMBEDDING_STD = Metric(
    title="standard deviation of the embeddings", role="collapse", from_zero=True, text="0: collapse"
)
"""What :func:`embedding_std` is, for the METRICS of methods that return it."""


def embedding_std(rows: Tensor) -> Tensor:
    """Standard deviation of unit rows times sqrt(d): 1 when they fill the sphere, 0 when all are one point.

    Args:
        rows: embeddings of the global batch, (rows, d), of any length. No gradient flows back.
    """
    with torch.no_grad():
        unit = F.normalize(rows, dim=1)
        spread: Tensor = unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5
    return spread


def spread_of_means(mean: Tensor, square: Tensor) -> Tensor:
    """:func:`embedding_std` of unit rows from the means of their numbers and of the squares of these, (d,) each."""
    spread: Tensor = (square - mean.square()).clamp_min(0).sqrt().mean() * len(mean) ** 0.5
    return spread


def rank_me(rows: Tensor) -> Tensor:
    """RankMe (Garrido et al. 2022, arXiv 2210.02885, equation 1): exp of the entropy of the singular values' shares.

    In float64 from the smaller of the two products of the rows, so without the paper's 1e-7 against logarithms of 0.

    Args:
        rows: embeddings (n, d) as they are, neither centred nor of unit length. No gradient flows back.

    Returns:
        A scalar on the CPU, from 1 (all on one line through 0) to min(n, d) (all directions alike).
    """
    with torch.no_grad():
        z = rows.double()
        products = z @ z.T if len(z) < z.shape[1] else z.T @ z
        # On the CPU: a GPU takes as long for so small a matrix, and memory for its solver.
        singular = torch.linalg.eigvalsh(products.cpu()).clamp_min(0).sqrt()
        shares = singular / singular.sum().clamp_min(torch.finfo(singular.dtype).tiny)
        rank: Tensor = torch.special.entr(shares).sum().exp()
    return rank
