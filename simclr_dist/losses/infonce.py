"""InfoNCE: which of n candidates belongs to a query."""

import math

from torch import Tensor

from simclr_dist.config.metric import Metric

MUTUAL_INFORMATION_BOUND = Metric(title="lower bound of the mutual information", unit="nats")
"""For the METRICS of methods that return it."""


def contrastive_top1(text: str) -> Metric:
    """How often the true candidate is the most similar one, for the METRICS of methods that return it.

    ``text`` says what it is in words.
    """
    return Metric(
        title="contrastive top-1", unit="%", role="headline", band=True, from_zero=True, text=text,
        below="the learning rate, recipe.method.temperature and, in metrics.jsonl, embedding_std (0: collapse)",
        above="the views (simclr-dist preview: are they too much alike?) and recipe.method.temperature",
    )  # fmt: skip


class InfoNCE:
    """Cross-entropy of the true candidate among n (van den Oord et al. 2018, arXiv 1807.03748, equation 4)."""

    def __call__(self, scores: Tensor) -> Tensor:
        """The losses (queries,) of scores (queries, n), similarities over temperature; column 0 is the true one."""
        return scores.logsumexp(1) - scores[:, 0]

    @staticmethod
    def mutual_information_bound(loss: Tensor, candidates: int) -> Tensor:
        """In nats: at least log n - loss (equation 5); n is of the recipe, whatever the number of processes."""
        return math.log(candidates) - loss.detach()
