"""A method and an encoder from outside the project, with metrics, units and layers that no method of it has."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from simclr_dist.config.fields import number
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.spread import embedding_std
from simclr_dist.methods.base import Batch, Method, MethodKeys, Metric, Tensors
from simclr_dist.methods.parts import Parts

NAME = "tests.support.other_method:Distance"
ENCODER = "tests.support.other_method:Flat"


class Distance(Method):
    """Draws the two views of an image together: nothing keeps it from collapse."""

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """Its keys."""

        output_dim: int = number(16, low=1)
        """Size of the embedding."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "view_distance": Metric(
            title="distance of the views", unit="furlongs", role="headline", band=True, below="whether it has collapsed"
        ),
        "filled": Metric(title="filled share of the sphere", unit="%", role="collapse", below="what holds views apart"),
        "embedding_norm": Metric(title="length of the embeddings", text="mean over the batch"),
    }

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.encoder = make.encoder()
        self.head = nn.Linear(self.encoder.output_dim, config.output_dim)

    def embed(self, batch: Batch) -> Tensors:
        views = batch.views["global"]
        z: Tensor = self.head(self.encoder(views.flatten(0, 1)))
        return {"z": z.unflatten(0, views.shape[:2])}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        z = global_batch(embeddings["z"])
        loss = (z[:, 0] - z[:, 1]).square().mean()
        return {
            "loss": loss,
            "view_distance": 1000 * loss.detach().sqrt(),
            "filled": embedding_std(global_batch(embeddings["z"][:, 0].detach())),
            "embedding_norm": z.detach().norm(dim=-1).mean(),
        }


class Flat(nn.Module):
    """One linear layer: no convolution, no stages."""

    output_dim = 8

    def __init__(self, keys: Any, norm_layer: Any) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(self.output_dim)
        self.linear(torch.zeros(1, 3 * 8 * 8))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.linear(x.flatten(1)).relu()
        return features
