"""SimCLR: one encoder and one head for all views, NT-Xent between the two views of every image."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config.fields import number
from simclr_dist.distributed.collectives import process_count
from simclr_dist.losses import nt_xent
from simclr_dist.losses.spread import EMBEDDING_STD
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors
from simclr_dist.methods.parts import Parts
from simclr_dist.models.projection import Projection

_COLLAPSE = "the learning rate, recipe.method.temperature and, in metrics.jsonl, embedding_std (0: collapse)"


class SimCLR(Method):
    """Chen et al. 2020 (arXiv 2002.05709), algorithm 1; with three layers in its head, SimCLR v2 (arXiv 2006.10029)."""

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="SimCLR", paper="Chen et al. 2020", arxiv="2002.05709", published=Published(69.1, epochs=800),
        equation=(
            "L = 1/(2n) sum_i [log sum_{j != i} exp(s_ij) - s_i,p(i)]        s_ij = z_i.z_j "
            "/ T, p(i) the other view of i's image"
        ),
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of SimCLR."""

        temperature: float = number(0.1, low=0.002)
        """The temperature of NT-Xent (the paper: 0.1 for ImageNet at long schedules, 0.5 for CIFAR)."""
        loss_scale: float = number(1.0, above=0.0)
        """Multiplies the mean NT-Xent. Google's code adds two means: 2. LARS hides it from weights only."""
        projection: Projection = field(default_factory=Projection)

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "contrastive_top1": Metric(
            title="contrastive top-1", unit="%", role="headline", band=True, from_zero=True,
            text="the other view is the most similar", below=_COLLAPSE,
            above="the views (simclr-dist preview: are they too much alike?) and recipe.method.temperature",
        ),
        "contrastive_top5": Metric(title="contrastive top-5", unit="%", from_zero=True),
        "positive_rank_mean": Metric(title="mean rank of the other view", from_zero=True),
        "mutual_information_bound": Metric(title="lower bound of the mutual information", unit="nats"),
        "embedding_std": EMBEDDING_STD,
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.projection = make.projection(self.encoder.output_dim, config.projection)

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With projections of 32 numbers."""
        return replace(config, projection=replace(config.projection, hidden_dim=0, output_dim=32))

    def embed(self, batch: Batch) -> Tensors:
        """``z``: projections (images, 2, d) of the two views."""
        views = batch.views["global"]
        # Both views go through together, image by image: batch norm sees both, and its groups are whole images.
        z: Tensor = self.projection(self.encoder(views.flatten(0, 1)))
        return {"z": z.unflatten(0, views.shape[:2])}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Mean NT-Xent over all rows of the global batch (equation 1), times ``loss_scale``."""
        z = embeddings["z"]
        result = nt_xent(z[:, 0], z[:, 1], self.config.temperature)
        rows = 2 * len(z) * process_count()
        return {
            "loss": self.config.loss_scale * result.loss,
            "contrastive_top1": result.top1,
            "contrastive_top5": result.top5,
            "positive_rank_mean": result.positive_rank_mean,
            # Poole et al. 2019: log of the number of candidates minus the InfoNCE loss.
            "mutual_information_bound": math.log(rows - 1) - result.loss.detach(),
            "embedding_std": result.embedding_std,
        }

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy of every row over all others, the matrix and all."""
        z = F.normalize(embeddings["z"].transpose(0, 1).flatten(0, 1), dim=1)
        similarity = (z @ z.T / self.config.temperature).fill_diagonal_(-math.inf)
        other_view = torch.arange(len(z), device=z.device).roll(len(z) // 2)
        return self.config.loss_scale * F.cross_entropy(similarity, other_view)
