"""Heads and losses of lightly for benchmarks/methods.py, called as lightly's examples call them, sized as a method's.

Each function takes the method's keys, features (views, images, d) and an empty ModuleDict to put its parts into, and
returns what computes the loss.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightly import loss as losses
from lightly.models import utils
from lightly.models.modules import heads
from torch import Tensor, nn

Loss = Callable[[], Tensor]


def simclr(keys: Any, features: Tensor, parts: nn.ModuleDict) -> Loss:
    size = features.shape[-1]
    parts["head"] = heads.SimCLRProjectionHead(size, size, keys.projection.output_dim)
    parts["loss"] = losses.NTXentLoss(keys.temperature)
    return lambda: parts["loss"](parts["head"](features[0]), parts["head"](features[1]))


def moco(keys: Any, features: Tensor, parts: nn.ModuleDict) -> Loss:
    size = features.shape[-1]
    parts["head"] = heads.MoCoProjectionHead(size, size, keys.output_dim)
    parts["key_head"] = heads.MoCoProjectionHead(size, size, keys.output_dim).requires_grad_(False)
    parts["loss"] = losses.NTXentLoss(keys.temperature, memory_bank_size=(keys.queue_keys, keys.output_dim))

    def loss() -> Tensor:
        utils.update_momentum(parts["head"], parts["key_head"], keys.momentum)
        with torch.no_grad():
            key = parts["key_head"](features[1])
        found: Tensor = parts["loss"](parts["head"](features[0]), key)
        return found

    return loss


def barlow_twins(keys: Any, features: Tensor, parts: nn.ModuleDict) -> Loss:
    parts["head"] = heads.BarlowTwinsProjectionHead(features.shape[-1], keys.hidden_dim, keys.output_dim)
    parts["loss"] = losses.BarlowTwinsLoss(keys.off_diagonal_weight)
    return lambda: parts["loss"](parts["head"](features[0]), parts["head"](features[1]))


def vicreg(keys: Any, features: Tensor, parts: nn.ModuleDict) -> Loss:
    parts["head"] = heads.VICRegProjectionHead(features.shape[-1], keys.hidden_dim, keys.output_dim)
    parts["loss"] = losses.VICRegLoss(keys.invariance_weight, keys.variance_weight, keys.covariance_weight)
    return lambda: parts["loss"](parts["head"](features[0]), parts["head"](features[1]))


def byol(keys: Any, features: Tensor, parts: nn.ModuleDict) -> Loss:
    sizes = (keys.hidden_dim, keys.output_dim)
    parts["head"] = heads.BYOLProjectionHead(features.shape[-1], *sizes)
    parts["teacher"] = heads.BYOLProjectionHead(features.shape[-1], *sizes).requires_grad_(False)
    parts["predictor"] = heads.BYOLPredictionHead(keys.output_dim, *sizes)
    cosine = losses.NegativeCosineSimilarity()

    def loss() -> Tensor:
        utils.update_momentum(parts["head"], parts["teacher"], keys.target_momentum)
        with torch.no_grad():
            targets = [parts["teacher"](each) for each in features]
        p = [parts["predictor"](parts["head"](each)) for each in features]
        found: Tensor = 0.5 * (cosine(p[0], targets[1]) + cosine(p[1], targets[0]))
        return found

    return loss


def simsiam(keys: Any, features: Tensor, parts: nn.ModuleDict) -> Loss:
    size = features.shape[-1]
    parts["head"] = heads.SimSiamProjectionHead(size, size, keys.output_dim)
    parts["predictor"] = heads.SimSiamPredictionHead(keys.output_dim, keys.predictor_dim, keys.output_dim)
    cosine = losses.NegativeCosineSimilarity()

    def loss() -> Tensor:
        z = [parts["head"](each) for each in features]
        p = [parts["predictor"](each) for each in z]
        found: Tensor = 0.5 * (cosine(p[0], z[1].detach()) + cosine(p[1], z[0].detach()))
        return found

    return loss


def swav(keys: Any, features: Tensor, parts: nn.ModuleDict) -> Loss:
    parts["head"] = heads.SwaVProjectionHead(features.shape[-1], keys.hidden_dim, keys.output_dim)
    prototypes = parts["prototypes"] = heads.SwaVPrototypes(keys.output_dim, keys.prototypes)
    parts["loss"] = losses.SwaVLoss(keys.temperature, keys.sinkhorn_iterations, keys.epsilon)

    def loss() -> Tensor:
        prototypes.normalize()
        z = nn.functional.normalize(parts["head"](features.flatten(0, 1)), dim=1)  # all views at once, as its example
        scores = parts["prototypes"](z).chunk(len(features))
        found: Tensor = parts["loss"](list(scores[:2]), list(scores[2:]))
        return found

    return loss


LOSSES: dict[str, Callable[[Any, Tensor, nn.ModuleDict], Loss]] = {
    each.__name__: each for each in (simclr, moco, barlow_twins, vicreg, byol, simsiam, swav)
}
