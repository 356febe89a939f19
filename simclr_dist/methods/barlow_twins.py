"""Barlow Twins: the cross-correlation of two views of a batch, made the identity; no negatives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.cross_view import VIEW_CORRELATION
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Rate, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import like_byol

_EPS = 1e-5  # of the published code's batch norm on the embeddings


class BarlowTwins(Method):
    """Zbontar et al. 2021 (arXiv 2103.03230), with the weights of its published code.

    The embeddings are normalised and correlated over the global batch, whatever the number of processes. With W
    processes the published code's gradient is 1/W of that of its loss: LARS hides it from weights, not from biases and
    norms. ``gradient_scale`` 1/32 is what its 32 processes computed.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="Barlow Twins", paper="Zbontar et al. 2021", arxiv="2103.03230", published=Published(73.5, epochs=1000),
        equation=(
            "L = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2        C_ij = mean over "
            "images of z_1,i z_2,j, both normalised"
        ),
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of Barlow Twins."""

        off_diagonal_weight: float = number(0.0051, low=0.0)
        """The paper's lambda: weight of the redundancy, the squared correlations of different features."""
        gradient_scale: float = number(1.0, above=0.0)
        """Multiplies the gradient of the loss, not its value. 0.03125 (1/32) is the published run's."""
        vector_rate: float = number(0.024, low=0.0)
        """Learning rate of biases and norms over that of weights (published: 0.0048 / 0.2)."""
        hidden_dim: int = number(8192, low=2, high=MOST_CHANNELS)
        """Units of the two hidden layers of the projector."""
        output_dim: int = number(8192, low=2, high=MOST_CHANNELS)
        """Size of the embedding; the correlation is a matrix of its square."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "view_correlation": VIEW_CORRELATION,
        "redundancy": Metric(
            title="redundancy", from_zero=True, text="mean squared correlation of different features; 0: independent",
        ),
        "embedding_std": EMBEDDING_STD,
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        sizes = (self.encoder.output_dim, config.hidden_dim, config.hidden_dim, config.output_dim)
        self.projection = make.mlp(sizes, bias=False, norm=True)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """BYOL's: ``first`` and ``second``."""
        return like_byol()

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Also refuses views of two sizes, which cannot go through the encoder in one pass."""
        super().check(recipe)
        first, second = (recipe.views[name].side(recipe.data.image_size) for name in ("first", "second"))
        if first != second:
            raise ValueError(
                f"recipe.views.second.size: views of {second} px do not go through the encoder together with those of "
                f"recipe.views.first.size, {first} px; make them equal"
            )

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With a projector of 32 units in each layer."""
        return replace(config, hidden_dim=32, output_dim=32)

    def embed(self, batch: Batch) -> Tensors:
        """``z``: projections (images, 2, d), not normalised."""
        views = torch.cat((batch.views["first"], batch.views["second"]), dim=1)
        # Both views go through together, image by image, as in SimCLR: one set of statistics.
        z: Tensor = self.projection(self.encoder(views.flatten(0, 1)))
        return {"z": z.unflatten(0, views.shape[:2])}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 1, over the global batch."""
        z = global_batch(embeddings["z"], "embeddings of the loss")
        correlation = cross_correlation(normalised(z[:, 0]), normalised(z[:, 1]))
        on_diagonal, off_diagonal = distances(correlation)
        loss = on_diagonal + self.config.off_diagonal_weight * off_diagonal
        scale, features = self.config.gradient_scale, len(correlation)
        return {
            "loss": loss if scale == 1 else scale * loss + (1 - scale) * loss.detach(),
            "view_correlation": correlation.detach().diagonal().mean(),
            "redundancy": off_diagonal.detach() / (features * (features - 1)),
            "embedding_std": embedding_std(z[:, 0]),
        }

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Torch's batch norm, the correlation as a sum over images, and its distance from the identity."""
        z_1, z_2 = (F.batch_norm(z, None, None, training=True, eps=_EPS) for z in embeddings["z"].unbind(1))
        identity = torch.eye(z_1.shape[1], dtype=z_1.dtype, device=z_1.device)
        correlation = torch.einsum("ni,nj->ij", z_1, z_2) / len(z_1)
        weights = self.config.off_diagonal_weight * (1 - identity) + identity
        loss = (weights * (correlation - identity) ** 2).sum()
        return loss.detach() + self.config.gradient_scale * (loss - loss.detach())

    def rates(self) -> Sequence[Rate]:
        """Biases and norms have a rate of their own."""
        factor = self.config.vector_rate
        return [Rate(lambda _, parameter: parameter.dim() <= 1, lambda moment: factor * moment.scheduled)]


def normalised(z: Tensor) -> Tensor:
    """Each feature of rows (n, d) with mean 0 and (biased) variance 1 over the rows."""
    variance, mean = torch.var_mean(z, dim=0, correction=0)
    return (z - mean) * torch.rsqrt(variance + _EPS)


def cross_correlation(z_1: Tensor, z_2: Tensor) -> Tensor:
    """Of normalised rows (n, d) of two views: (d, d)."""
    return z_1.T @ z_2 / len(z_1)


def distances(correlation: Tensor) -> tuple[Tensor, Tensor]:
    """From the identity, squared and summed: on the diagonal, and off it (both triangles)."""
    diagonal = correlation.diagonal()
    return (diagonal - 1).square().sum(), correlation.square().sum() - diagonal.square().sum()
