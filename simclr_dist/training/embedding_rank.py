"""RankMe of a run's embeddings, whatever its method: a collapse to few directions, which no loss need show."""

import torch

from simclr_dist.config.metric import RANK_ME
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.spread import rank_me
from simclr_dist.methods.base import Method, Tensors

EVERY_STEPS = 50
MOST_IMAGES = 1024
"""It takes a tenth of a second on a core of 2024, once in EVERY_STEPS, when embeddings are at least so large."""


def embedding_rank(method: Method, embeddings: Tensors, step: int, steps: int) -> dict[str, float]:
    """RankMe of the first MOST_IMAGES images of the global batch; {} between, and where it is not finite.

    Every process calls it, in every step that is no anomaly, and all get the same.

    Args:
        method: says which embeddings.
        embeddings: of the process's whole share, of this step.
        step: counted from 0; told are the first, every EVERY_STEPS-th from there, and the last.
        steps: of the whole run.
    """
    if step % EVERY_STEPS and step != steps - 1:
        return {}
    rows = method.embedding_rows(embeddings)
    if rows is None:
        return {}
    rows = global_batch(rows.detach(), "embeddings for RankMe")[:MOST_IMAGES]
    return {RANK_ME: float(rank_me(rows))} if bool(torch.isfinite(rows).all()) else {}
