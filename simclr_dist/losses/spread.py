"""How much of their space embeddings fill: whether they have collapsed."""

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
