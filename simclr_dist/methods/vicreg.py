"""VICReg: two views' embeddings alike, each feature spread out, different features not correlated; no negatives."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.cross_view import VIEW_CORRELATION
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts, each_view
from simclr_dist.methods.published_views import like_byol

_EPS = 1e-4  # of the published code, below the root of the variance


class VICReg(Method):
    """Bardes et al. 2022 (arXiv 2105.04906), as its published code computes it.

    Variance and covariance are those of the global batch. Each view goes through the networks in a pass of its own.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="VICReg", paper="Bardes et al. 2022", arxiv="2105.04906", published=Published(73.2, epochs=1000),
        equation=(
            "L = lambda mean (Z_1 - Z_2)^2 + mu/2 sum_v 1/d sum_j max(0, 1 - sqrt(C_v,jj + "
            "1e-4)) + nu sum_v 1/d sum_{i != j} C_v,ij^2"
        ),
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of VICReg."""

        invariance_weight: float = number(25.0, low=0.0)
        """Of the mean squared distance of the views' embeddings (the paper's lambda)."""
        variance_weight: float = number(25.0, low=0.0)
        """Of the hinge that keeps each feature's standard deviation at 1 (the paper's mu)."""
        covariance_weight: float = number(1.0, low=0.0)
        """Of the squared covariances of different features (the paper's nu)."""
        hidden_dim: int = number(8192, low=2, high=MOST_CHANNELS)
        """Units of the two hidden layers of the expander."""
        output_dim: int = number(8192, low=2, high=MOST_CHANNELS)
        """Size of the embedding."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "view_correlation": VIEW_CORRELATION,
        "invariance": Metric(title="invariance", from_zero=True, text="mean squared distance of the views' embeddings"),
        "variance_hinge": Metric(
            title="variance hinge", from_zero=True, text="how far features' standard deviations are below 1: the mean",
        ),
        "covariance": Metric(
            title="covariance", from_zero=True, text="squared, of different features, summed over both views",
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
    def small(cls, config: Config, images: int) -> Config:
        """With an expander of 32 units in each layer."""
        return replace(config, hidden_dim=32, output_dim=32)

    def embed(self, batch: Batch) -> Tensors:
        """``z``: embeddings (images, 2, d), not normalised."""
        return {"z": torch.stack(each_view(batch, self.encoder, self.projection), dim=1)}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 6, over the global batch."""
        z_1, z_2 = global_batch(embeddings["z"], "embeddings of the loss").unbind(1)
        keys = self.config
        invariance = F.mse_loss(z_1, z_2)
        variance = (variance_hinge(z_1) + variance_hinge(z_2)) / 2
        covariance = covariances(z_1) + covariances(z_2)
        loss = (
            keys.invariance_weight * invariance
            + keys.variance_weight * variance
            + keys.covariance_weight * covariance
        )  # fmt: skip
        with torch.no_grad():
            correlation = F.cosine_similarity(z_1 - z_1.mean(0), z_2 - z_2.mean(0), dim=0).mean()
        return {
            "loss": loss,
            "view_correlation": correlation,
            "invariance": invariance.detach(),
            "variance_hinge": variance.detach(),
            "covariance": covariance.detach(),
            "embedding_std": embedding_std(z_1),
        }

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Each view's covariance matrix, whole."""
        keys, features = self.config, embeddings["z"].shape[2]
        loss = keys.invariance_weight * (embeddings["z"][:, 0] - embeddings["z"][:, 1]).square().mean()
        for z in embeddings["z"].unbind(1):
            matrix = torch.cov(z.T)
            deviations = (matrix.diagonal() + _EPS).sqrt()
            off_diagonal = matrix - matrix.diagonal().diag()
            loss = loss + keys.variance_weight * (1 - deviations).clamp_min(0).mean() / 2
            loss = loss + keys.covariance_weight * off_diagonal.square().sum() / features
        return loss


def variance_hinge(z: Tensor) -> Tensor:
    """Mean over the features of rows (n, d) of max(0, 1 - standard deviation) (equation 1)."""
    return F.relu(1 - (z.var(dim=0) + _EPS).sqrt()).mean()


def covariances(z: Tensor) -> Tensor:
    """Sum over pairs of different features of rows (n, d) of their squared covariance, over d (equation 4).

    All squared entries of Z'Z sum to those of ZZ': the smaller of the two matrices is made.
    """
    n, d = z.shape
    centred = z - z.mean(0)
    products = centred.T @ centred if d <= n else centred @ centred.T
    off_diagonal = products.square().sum() - centred.square().sum(0).square().sum()
    return off_diagonal / ((n - 1) ** 2 * d)
