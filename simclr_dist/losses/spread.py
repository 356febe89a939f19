"""How much of their space embeddings fill: whether they have collapsed."""

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.distributed.global_batch import global_batch


def embedding_std(rows: Tensor) -> Tensor:
    """Standard deviation of unit rows times sqrt(d): 1 when they fill the sphere, 0 when all are one point.

    Args:
        rows: this process's embeddings (rows, d), of any length; the result is over the global batch, without a graph.
    """
    with torch.no_grad():
        unit = F.normalize(global_batch(rows.detach()), dim=1)
        spread: Tensor = unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5
    return spread
