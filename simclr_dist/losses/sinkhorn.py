"""Assignment of the rows of a global batch to prototypes, each of which gets an equal share of them."""

from torch import Tensor

from simclr_dist.distributed.collectives import gather_stacked

_SMALLEST = 1e-300  # a row that takes no part stays 0


def sinkhorn(scores: Tensor, epsilon: float, iterations: int, takes_part: Tensor | None = None) -> Tensor:
    """SwAV's distributed_sinkhorn (Caron et al. 2020, arXiv 2006.09882, equation 3; Cuturi 2013).

    The sums over a prototype are those of the rows of all processes, added in the order of ranks; those over a row are
    its own. In float64: exp(score / 0.05) leaves float16, and a shift by 1, the largest cosine, cancels.

    Args:
        scores: cosines of this process's rows with all prototypes, (rows, prototypes); without a gradient.
        epsilon: of the entropy; smaller is sharper.
        iterations: each divides prototypes first and rows second.
        takes_part: (rows,), 1 or 0: a row with 0 is as if it were not there. None: all take part.

    Returns:
        float64 (rows, prototypes); each row sums to 1, or is 0 where it takes no part.
    """
    shares = ((scores.double() - 1) / epsilon).exp_()
    if takes_part is not None:
        shares *= takes_part[:, None]
    for _ in range(iterations):
        shares /= gather_stacked(shares.sum(0), label="sums over prototypes").sum(0).clamp_min(_SMALLEST)
        shares /= shares.sum(1, keepdim=True).clamp_min(_SMALLEST)
    return shares
