"""Losses in which time says what is near: semi-hard triplets and n-pairs (Sermanet et al. 2018), NT-Xent.

All hold the matrix of all pairs of the global batch: memory is O(rows^2), a few times.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def near_and_far(
    one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], positive_frames: int, negative_frames: int
) -> tuple[Tensor, Tensor]:
    """Which pairs attract and which repel, bool (n, m) each; those between the windows do neither.

    Args:
        one: sequence and frame number of n rows, int64 (n,) each.
        other: the same of m columns.
        positive_frames: near is at most so many numbers away in the same sequence.
        negative_frames: far is more than so many, or in another sequence.
    """
    same = one[0][:, None] == other[0]
    apart = (one[1][:, None] - other[1]).abs()
    return same & (apart <= positive_frames), ~same | (apart > negative_frames)


def without_itself(pairs: Tensor) -> Tensor:
    """The same pairs (n, n), no row with itself."""
    return pairs & ~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)


def semi_hard_triplet(z: Tensor, near: Tensor, far: Tensor, margin: float) -> Tensor:
    """max(0, margin + |z_i - z_p|^2 - |z_i - z_n|^2), the mean over all near pairs (i, p).

    The far row n is the nearest one that is farther from i than p, or where there is none the farthest of all. A row
    without far ones takes no part.

    Args:
        z: rows (n, d), taken as they are.
        near: which pairs attract, bool (n, n), no row with itself.
        far: which repel.
        margin: of squared distances.
    """
    distances = _squared_distances(z)
    with torch.no_grad():
        ordered, order = distances.where(far, torch.inf).sort(dim=1, stable=True)
        count = far.sum(1, keepdim=True)
        place = torch.searchsorted(ordered, distances.contiguous(), right=True)
        chosen = order.gather(1, torch.minimum(place, (count - 1).clamp_min(0)))
    losses = (margin + distances - distances.gather(1, chosen)).clamp_min(0)
    return _mean(losses, near & (count > 0))


def nt_xent_in_time(z: Tensor, near: Tensor, far: Tensor, temperature: float) -> Tensor:
    """-log exp(s_ip) / (exp(s_ip) + sum over far n of exp(s_in)), s = z.z / T, the mean over all near pairs (i, p).

    Arguments as :func:`semi_hard_triplet`'s, rows of unit length.
    """
    similarity = z @ z.T / temperature
    others = similarity.where(far, -torch.inf).logsumexp(1, keepdim=True)
    # Above its threshold torch's softplus(x) is x, which at its 20 is off by 2e-9.
    return _mean(F.softplus(others - similarity, threshold=40), near & far.any(1, keepdim=True))


def n_pairs(anchors: Tensor, partners: Tensor, near: Tensor, far: Tensor, decay: float) -> Tensor:
    """Cross-entropy of each anchor over all partners near or far, the near ones alike likely, plus a quarter of
    ``decay`` times the mean squared lengths of anchors and of partners (Sohn 2016, as TCN's code has it).

    Args:
        anchors: (n, d), taken as they are.
        partners: (n, d), the i-th that of anchor i, which counts as near.
        near: of anchors and partners, bool (n, n).
        far: the same.
        decay: weight of the lengths.
    """
    near = near | torch.eye(len(near), dtype=torch.bool, device=near.device)
    logits = (anchors @ partners.T).where(near | far, -torch.inf)
    log_p = logits.log_softmax(1).where(near, 0)
    lengths = anchors.square().sum(1).mean() + partners.square().sum(1).mean()
    return -(log_p.sum(1) / near.sum(1)).mean() + 0.25 * decay * lengths


def nearest_is_near(z: Tensor, near: Tensor, far: Tensor) -> Tensor:
    """The share of rows whose most similar row, of those near or far in time, is near; rows with both kinds count."""
    with torch.no_grad():
        rows = F.normalize(z, dim=1)
        nearest = (rows @ rows.T).where(near | far, -torch.inf).argmax(1, keepdim=True)
        counts = near.any(1) & far.any(1)
        hits = near.gather(1, nearest)[:, 0] & counts
        share: Tensor = hits.sum().to(z.dtype) / counts.sum().clamp_min(1)
    return share


def _squared_distances(z: Tensor) -> Tensor:
    lengths = z.square().sum(1)
    return (lengths[:, None] + lengths - 2 * (z @ z.T)).clamp_min(0)


def _mean(losses: Tensor, of: Tensor) -> Tensor:
    """Over the pairs of a mask; 0 of none."""
    mean: Tensor = losses.where(of, 0).sum() / of.sum().clamp_min(1)
    return mean
