"""InfoNCE: which of n candidates belongs to a query."""

import math

from torch import Tensor


class InfoNCE:
    """Cross-entropy of the true candidate among n (van den Oord et al. 2018, arXiv 1807.03748, equation 4)."""

    def __call__(self, scores: Tensor) -> Tensor:
        """The losses (queries,) of scores (queries, n), similarities over temperature; column 0 is the true one."""
        return scores.logsumexp(1) - scores[:, 0]

    @staticmethod
    def mutual_information_bound(loss: Tensor, candidates: int) -> Tensor:
        """In nats: at least log n - loss (equation 5); n is of the recipe, whatever the number of processes."""
        return math.log(candidates) - loss.detach()
