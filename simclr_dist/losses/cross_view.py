"""What one view's prediction says of the other view's target: the loss of methods without negatives."""

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config.metric import Metric

AGREEMENT = Metric(
    title="agreement of the views", role="headline", band=True,
    text="mean cosine of a view's prediction and the other view's target; 1: the same",
    below="the views (simclr-dist preview: are they too different?) and the learning rate",
    above="embedding_std in metrics.jsonl (0: collapse) and the views (simclr-dist preview: are they too much alike?)",
)  # fmt: skip
"""The mean of :func:`cross_view_cosine`, for the METRICS of methods that return it."""

VIEW_CORRELATION = Metric(
    title="correlation of the views", role="headline", band=True,
    text="mean over the embedding's features; 1: the views' embeddings are the same",
    below="the views (simclr-dist preview: are they too different?) and the learning rate",
    above="the views (simclr-dist preview: are they too much alike?)",
)  # fmt: skip
"""The mean over features of the views' correlation over the batch, for the METRICS of methods that return it."""


def cross_view_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """Cosine of each view's prediction with the other view's target, the mean of both directions, (images,).

    Args:
        predictions: (images, 2, d), of any length.
        targets: the same shape, of any length. No gradient flows back into them.
    """
    cosines: Tensor = F.cosine_similarity(predictions, targets.detach().flip(1), dim=-1)
    return cosines.mean(1)


def plain_cross_view_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """The mean over images once more, from unit vectors' distances: 1 - |p - t|^2 / 2, (scalar)."""
    p_1, p_2, t_1, t_2 = (
        each / torch.linalg.vector_norm(each, dim=1, keepdim=True)
        for each in (*predictions.unbind(1), *targets.detach().unbind(1))
    )
    distances: Tensor = (p_1 - t_2).square().sum() + (p_2 - t_1).square().sum()
    return 1 - distances / (4 * len(p_1))
