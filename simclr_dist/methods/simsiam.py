"""SimSiam: one network predicts, from one view, its own output on the other, which passes no gradient."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.cross_view import AGREEMENT, cross_view_cosine, plain_cross_view_cosine
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Rate, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import like_moco


class SimSiam(Method):
    """Chen and He 2021 (arXiv 2011.10566), as its published code computes it.

    Each view goes through the network in a pass of its own. The bias before the projector's last batch norm, which the
    published code leaves untrained, is left out.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="SimSiam", paper="Chen and He 2021", arxiv="2011.10566", published=Published(68.1, epochs=100),
        equation="L = -1/2 mean over images of [cos(p_1, stop(z_2)) + cos(p_2, stop(z_1))]",
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of SimSiam."""

        output_dim: int = number(2048, low=2, high=MOST_CHANNELS)
        """Size of projections and predictions; the projector's hidden layers are as wide as the encoder's features."""
        predictor_dim: int = number(512, low=2, high=MOST_CHANNELS)
        """Units of the predictor's hidden layer."""
        constant_predictor_rate: bool = True
        """The predictor has the rate after the warm-up from the first step to the last; false: the schedule's rate."""

    METRICS: ClassVar[Mapping[str, Metric]] = {"agreement": AGREEMENT, "embedding_std": EMBEDDING_STD}

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        features, dim, hidden = self.encoder.output_dim, config.output_dim, config.predictor_dim
        self.projection = make.mlp((features, features, features, dim), bias=False, norm=True, last_norm=True)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            linear_1=nn.Linear(dim, hidden, bias=False),
            norm_1=make.norm(hidden),
            relu_1=nn.ReLU(inplace=True),
            linear_2=nn.Linear(hidden, dim),
        )
        self.predictor = nn.Sequential(layers)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """Two views drawn alike, as MoCo v2's."""
        return like_moco()

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With embeddings of 32 numbers."""
        return replace(config, output_dim=32, predictor_dim=16)

    def embed(self, batch: Batch) -> Tensors:
        """``p``: predictions (images, 2, d); ``z``: the projections, without a gradient."""
        z = [self.projection(self.encoder(view)) for view in batch.views["global"].unbind(1)]
        p = [self.predictor(each) for each in z]
        return {"p": torch.stack(p, dim=1), "z": torch.stack(z, dim=1).detach()}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 4: minus the cosine of both directions' mean, -1 to 1, over the global batch."""
        cosines = global_batch(cross_view_cosine(embeddings["p"], embeddings["z"]), "cosines of the views")
        agreement = cosines.mean()
        z = global_batch(embeddings["z"][:, 0].detach(), "projections")
        return {"loss": -agreement, "agreement": agreement.detach(), "embedding_std": embedding_std(z)}

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """From distances of unit vectors."""
        return -plain_cross_view_cosine(embeddings["p"], embeddings["z"])

    def rates(self) -> Sequence[Rate]:
        """The predictor's, which does not decay (section 4.2)."""
        if not self.config.constant_predictor_rate:
            return ()
        return [Rate(lambda name, _: name.startswith("predictor."), lambda moment: moment.peak)]
