"""BYOL: a network predicts, from one view, what its own moving average says of the other; no negatives."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.cross_view import AGREEMENT, cross_view_cosine, plain_cross_view_cosine
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts, each_view
from simclr_dist.methods.published_views import like_byol
from simclr_dist.models.follower import follow, rising_momentum


class BYOL(Method):
    """Grill et al. 2020 (arXiv 2006.07733), as its published code computes it.

    Each view goes through the networks in a pass of its own, so batch norm sees one kind of view at a time. The target
    network starts from random weights of its own (its encoder from those of recipe.initial, where they are given) and
    has its own running statistics. The published first layers of the heads have biases, which the batch norm after them
    takes out again; here they have none.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="BYOL", paper="Grill et al. 2020", arxiv="2006.07733", keeps=("second encoder",),
        published=Published(74.3, epochs=1000, from_memory=True),
        equation=(
            "L = mean over images of |p_1/|p_1| - t_2/|t_2||^2 + |p_2/|p_2| - t_1/|t_1||^2\n"
            "target <- tau target + (1 - tau) network,   tau = 1 - (1 - tau_0)(1 + cos(pi s/S))/2"
        ),
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of BYOL."""

        target_momentum: float = number(0.996, low=0.0, high=1.0)
        """Share of the target network that stays in the first update (tau); it rises to 1 along a cosine of the step
        (published: 0.996 for 1000 epochs, 0.99 for 300 and 100)."""
        hidden_dim: int = number(4096, low=2, high=MOST_CHANNELS)
        """Units of the hidden layer of projector and predictor."""
        output_dim: int = number(256, low=2, high=MOST_CHANNELS)
        """Size of projections and predictions."""

    METRICS: ClassVar[Mapping[str, Metric]] = {"agreement": AGREEMENT, "embedding_std": EMBEDDING_STD}

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        features, hidden, dim = self.encoder.output_dim, config.hidden_dim, config.output_dim
        self.projection = make.mlp((features, hidden, dim), bias=False, norm=True)
        self.predictor = make.mlp((dim, hidden, dim), bias=False, norm=True)
        self.target_encoder = make.encoder().requires_grad_(False)
        self.target_projection = make.mlp((features, hidden, dim), bias=False, norm=True).requires_grad_(False)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """BYOL's: ``first`` and ``second``."""
        return like_byol()

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With heads of 32 units in each layer."""
        return replace(config, hidden_dim=32, output_dim=32)

    def targets(self, batch: Batch) -> Tensors:
        """``target``: the target network's projections (images, 2, d)."""
        return {"target": torch.stack(each_view(batch, self.target_encoder, self.target_projection), dim=1)}

    def embed(self, batch: Batch) -> Tensors:
        """``p``: predictions (images, 2, d); ``z``: the projections that they are made from, without a gradient."""
        z = each_view(batch, self.encoder, self.projection)
        p = [self.predictor(each) for each in z]
        return {"p": torch.stack(p, dim=1), "z": torch.stack(z, dim=1).detach()}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 2 in both directions: the sum of two squared distances of unit vectors, 0 to 8, over the batch."""
        cosines = global_batch(cross_view_cosine(embeddings["p"], targets["target"]), "cosines of the views")
        agreement = cosines.mean()
        z = global_batch(embeddings["z"][:, 0].detach(), "projections")
        return {"loss": 4 - 4 * agreement, "agreement": agreement.detach(), "embedding_std": embedding_std(z)}

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """The target network follows the one that the optimizer has just moved, in its parameters alone."""
        momentum = rising_momentum(self.config.target_momentum, step, steps)
        follow(self.target_encoder, self.encoder, momentum)
        follow(self.target_projection, self.projection, momentum)

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """From distances of unit vectors."""
        return 4 - 4 * plain_cross_view_cosine(embeddings["p"], targets["target"])
