"""Measures of features that need no label, from spectra of their covariances, in float64 on the CPU.

RankMe stands in :mod:`simclr_dist.losses.spread`.
"""

import math

import torch
from torch import Tensor

DELTA = 1e-4
"""What LiDAR adds to the covariance within images (Thilak et al. 2024, arXiv 2312.04000, section 3)."""
FIRST_RANK, LAST_RANK = 4, 100
"""Between which alpha-ReQ's power law is fitted: the authors' code varies, between 4 and 12 for the first."""
_LEAST_RANKS = 5
_ROUNDING = 1e-12  # eigenvalues below this share of the largest are rounding errors


def lidar(rows: Tensor, delta: float = DELTA) -> float:
    """LiDAR (Thilak et al. 2024, section 3, equations 1 to 4): how many directions tell images apart.

    exp of the entropy of the eigenvalues' shares of S_w^-1/2 S_b S_w^-1/2, where S_b is the covariance of the images'
    means and S_w that of the views around these, plus ``delta`` on its diagonal. Without the paper's small number
    against logarithms of 0.

    Args:
        rows: features or embeddings (images, views, d), two images and two views at least.
        delta: in squares of the rows' unit.

    Returns:
        from 1 to min(images - 1, d), or 0 where all images have one mean.
    """
    with torch.no_grad():
        views = rows.double().cpu()
        means = views.mean(1)
        centred = means - means.mean(0)
        within = (views - means[:, None]).flatten(0, 1)
        covariance = within.T @ within / len(within) + delta * torch.eye(within.shape[1], dtype=torch.float64)
        # With S_w = L L^T the eigenvalues are those of L^-1 S_b L^-T.
        whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), centred.T, upper=False)
        small = whitened.T @ whitened if len(centred) < len(whitened) else whitened @ whitened.T
        eigenvalues = torch.linalg.eigvalsh(small / len(centred)).clamp_min(0)
        if not eigenvalues.sum() > 0:
            return 0.0
        return float(torch.special.entr(eigenvalues / eigenvalues.sum()).sum().exp())


def alpha_req(rows: Tensor) -> float | None:
    """alpha-ReQ (Agrawal et al. 2022, NeurIPS, section 3): alpha of eigenvalue(rank) ~ rank^-alpha of the covariance.

    A least-squares line through (log rank, log eigenvalue), each weighted by 1 / rank as in the authors' code, from
    FIRST_RANK to LAST_RANK as far as there are eigenvalues above rounding; from rank 1 where there are few.

    Args:
        rows: features (images, d).

    Returns:
        alpha, or None where fewer than three eigenvalues are left to fit.
    """
    with torch.no_grad():
        centred = rows.double().cpu()
        centred = centred - centred.mean(0)
        small = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
        eigenvalues = torch.linalg.eigvalsh(small).flip(0)
        count = int((eigenvalues > _ROUNDING * eigenvalues[0]).sum()) if eigenvalues[0] > 0 else 0
        last = min(count, LAST_RANK)
        first = FIRST_RANK if last - FIRST_RANK + 1 >= _LEAST_RANKS else 1
        if last - first < 2:
            return None
        x = torch.arange(first, last + 1, dtype=torch.float64).log()
        y, weights = eigenvalues[first - 1 : last].log(), (-x).exp()
        x, y = (each - (weights * each).sum() / weights.sum() for each in (x, y))
        slope = float((weights * x * y).sum() / (weights * x * x).sum())
    return -slope if math.isfinite(slope) else None
