"""Multinomial logistic regression with an L2 penalty, to convergence; several problems of one shape at once.

The objective is scikit-learn's, C * (sum of the cross-entropies) + |weights|^2 / 2 with a free intercept, and so are
its solutions. With fewer images than features the weights lie in the span of the images, so the problem is solved
there, exactly, in as many dimensions as there are images. The axes are those of the singular value decomposition: the
Hessian is nearly diagonal along them, which makes conjugate gradients quick (Newton-CG: Nocedal and Wright 2006,
algorithm 7.1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.log import log

_PRECISION = 1e-4
"""What the last step may gain, relative to the objective; what is left after it is the square of the forcing term."""
_MOST_STEPS, _MOST_INNER_STEPS, _FORCING = 100, 200, 0.05


@dataclass(frozen=True)
class LinearModels:
    """The solutions of the problems at one C, in float64."""

    weight: Tensor
    """(problems, features, classes)"""
    bias: Tensor
    """(problems, 1, classes)"""

    def scores(self, features: Tensor) -> Tensor:
        """Logits of images (n, features), or (problems, n, features): (problems, n, classes)."""
        return features.double() @ self.weight + self.bias


def regression_path(
    features: Tensor, labels: Tensor, classes: int, inverse_l2: Sequence[float]
) -> Iterator[LinearModels]:
    """Solve every problem at each C, each from the solution of the one before; in ascending order they are near.

    Args:
        features: (problems, images, features); everything is computed, and the solutions stand, on their device.
        labels: (problems, images) on that device, integers in 0 .. classes - 1; every problem has an image of each
            class.
        classes: two at least.
        inverse_l2: scikit-learn's C.
    """
    mean = features.double().mean(1, keepdim=True)
    centred = features.double() - mean
    wide = centred.shape[2] > centred.shape[1]
    squares, axes = torch.linalg.eigh(centred @ centred.mT if wide else centred.mT @ centred)
    # Of float32 features smaller ones are rounding: no direction that the images have.
    kept = squares > squares[:, -1:] * 1e-12 + torch.finfo(torch.float64).tiny
    squares = torch.where(kept, squares, 0)
    inverse_root = torch.where(kept, squares, 1).rsqrt() * kept
    basis = centred.mT @ axes * inverse_root[:, None] if wide else axes * kept[:, None]
    rows = F.pad(axes * squares.sqrt()[:, None] if wide else centred @ basis, (0, 1), value=1.0)
    squares = F.pad(squares, (0, 1), value=features.shape[1])[..., None]
    # With two classes scikit-learn has one vector of weights, the difference of these two: twice their penalty.
    penalty = torch.full_like(squares[0], 2.0 if classes == 2 else 1.0)
    penalty[-1] = 0  # of the intercept
    targets = F.one_hot(labels, classes).double()
    weights = squares.new_zeros(len(features), squares.shape[1], classes)
    for value in inverse_l2:
        weights = _minimum(rows, targets, squares, penalty, value, weights)
        outer = basis @ weights[:, :-1]
        yield LinearModels(outer, weights[:, -1:] - mean @ outer)


def _minimum(rows: Tensor, targets: Tensor, squares: Tensor, penalty: Tensor, c: float, weights: Tensor) -> Tensor:
    """By Newton's method with a line search."""

    def objective(weights: Tensor) -> tuple[Tensor, Tensor]:
        logs = torch.log_softmax(rows @ weights, 2)
        return 0.5 * (penalty * weights.square()).sum((1, 2)) - c * (targets * logs).sum((1, 2)), logs

    value, logs = objective(weights)
    for _ in range(_MOST_STEPS):
        likely = logs.exp()
        gradient = c * ((likely - targets).mT @ rows).mT + penalty * weights
        direction = _newton_direction(rows, likely, squares, penalty, c, gradient)
        slope = (gradient * direction).sum((1, 2))
        running = -slope > _PRECISION * value
        if not running.any():
            return weights + direction
        size = running.double()
        for _ in range(30):
            tried = weights + size[:, None, None] * direction
            new, logs = objective(tried)
            too_far = new > value + 1e-4 * size * slope
            if not (too_far & running).any():
                break
            size = torch.where(too_far, size / 2, size)
        weights, value = tried, new
    log.warning("logistic regression with C = %g had not converged after %d steps", c, _MOST_STEPS)
    return weights


def _newton_direction(
    rows: Tensor, likely: Tensor, squares: Tensor, penalty: Tensor, c: float, gradient: Tensor
) -> Tensor:
    """Conjugate gradients on the Hessian, preconditioned by its diagonal as if it did not depend on the image."""
    variances = (likely * (1 - likely)).mean(1, keepdim=True).clamp_min(1e-12)
    inverse = 1 / (c * squares * variances + penalty)
    residual = -gradient
    direction = torch.zeros_like(gradient)
    search = preconditioned = inverse * residual
    product = first = (residual * preconditioned).sum((1, 2), keepdim=True)
    # What has converged is left as it is, so a GPU may be asked seldom: the host waits for the answer.
    asked_every = 8 if gradient.is_cuda else 1
    for step in range(_MOST_INNER_STEPS):
        going = product > _FORCING**2 * first
        if step % asked_every == 0 and not going.any():
            break
        moved = likely * (rows @ search)
        curved = c * ((moved - likely * moved.sum(2, keepdim=True)).mT @ rows).mT + penalty * search
        curvature = (search * curved).sum((1, 2), keepdim=True)
        size = torch.where(going & (curvature > 0), product / curvature, 0)
        direction = direction + size * search
        residual = residual - size * curved
        preconditioned = inverse * residual
        before, product = product, (residual * preconditioned).sum((1, 2), keepdim=True)
        search = preconditioned + torch.where(before > 0, product / before, 0) * search
    return direction
