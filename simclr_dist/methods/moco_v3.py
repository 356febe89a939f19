"""MoCo v3: a network's prediction from one view against the keys that its moving average makes of the other views."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.distributed.global_batch import global_batch, own_rows
from simclr_dist.losses.bank import log_sum_exp
from simclr_dist.losses.infonce import MUTUAL_INFORMATION_BOUND, InfoNCE, contrastive_top1
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts, each_view
from simclr_dist.methods.published_views import like_byol
from simclr_dist.models.follower import follow, follower_of, rising_momentum

LOSS_OVER_TEMPERATURE = 2.0
"""The published loss is 2 T times the cross-entropy. LARS hides the factor from weights, not from biases and norms."""


class MoCoV3(Method):
    """Chen, Xie and He 2021 (arXiv 2104.02057), as its published code computes it for ResNets and for ViTs.

    The negatives of a query are the keys of the global batch; there is no queue. Each view goes through the networks in
    a pass of its own. The keys' encoder begins as a copy and has its own running statistics.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="MoCo v3", paper="Chen, Xie and He 2021", arxiv="2104.02057", keeps=("second encoder",),
        published=Published(72.8, epochs=300),
        equation=(
            "L = 2T sum over (v, v') = (1, 2), (2, 1) of mean over i of "
            "-log exp(q_vi.k_v'i/T) / sum_j exp(q_vi.k_v'j/T)\n"
            "key encoder <- m key encoder + (1 - m) encoder,   m = 1 - (1 - m_0)(1 + cos(pi s/S))/2 at step s of S"
        ),
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of MoCo v3."""

        temperature: float = number(1.0, above=0.0)
        """Divides the similarities (published: 1 for ResNet-50, 0.2 for vision transformers)."""
        momentum: float = number(0.99, low=0.0, high=1.0)
        """Share of the keys' encoder that stays in the first update; it rises to 1 along a cosine of the step
        (published: 0.99 for 100 and 300 epochs, 0.996 for 1000)."""
        hidden_dim: int = number(4096, low=2, high=MOST_CHANNELS)
        """Units of the hidden layer of projector and predictor."""
        output_dim: int = number(256, low=2, high=MOST_CHANNELS)
        """Size of queries and keys."""
        projector_layers: int = number(2, low=2, high=16)
        """Linear layers of the projector (published: 2 for ResNet-50, 3 for vision transformers)."""
        predictor_last_norm: bool = False
        """Batch norm without gain and offset after the predictor's last layer, too (published for vision
        transformers)."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "contrastive_top1": contrastive_top1("the key of the image is more similar than those of all other images"),
        "mutual_information_bound": MUTUAL_INFORMATION_BOUND,
        "embedding_std": EMBEDDING_STD,
    }

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        features, hidden, dim = self.encoder.output_dim, config.hidden_dim, config.output_dim
        projector = (features, *[hidden] * (config.projector_layers - 1), dim)
        self.projection = make.mlp(projector, bias=False, norm=True, last_norm=True)
        self.predictor = make.mlp((dim, hidden, dim), bias=False, norm=True, last_norm=config.predictor_last_norm)
        self.key_encoder, self.key_projection = follower_of(self.encoder), follower_of(self.projection)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """BYOL's ``first`` and ``second``, of bilinear crops that are no smaller than 0.2 of the image."""
        byols = like_byol()
        return {name: replace(view, crop_area_min=0.2, interpolation="bilinear") for name, view in byols.items()}

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With heads of 32 units in each layer."""
        return replace(config, hidden_dim=32, output_dim=32)

    def targets(self, batch: Batch) -> Tensors:
        """``k``: keys (images, 2, d), not normalised."""
        return {"k": torch.stack(each_view(batch, self.key_encoder, self.key_projection), dim=1)}

    def embed(self, batch: Batch) -> Tensors:
        """``q``: queries (images, 2, d), not normalised."""
        return {"q": torch.stack(each_view(batch, self.encoder, self.projection, self.predictor), dim=1)}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """The sum over both directions of 2 T times the cross-entropy (algorithm 1), over the global batch."""
        q, k = (F.normalize(each, dim=2) for each in (embeddings["q"], targets["k"]))
        temperature, losses, ranks = self.config.temperature, [], []
        for queries, own_keys in zip(q.unbind(1), k.flip(1).unbind(1), strict=True):
            keys = global_batch(own_keys, "keys")
            own = own_rows(torch.arange(len(keys), device=keys.device))
            positive = (queries * own_keys).sum(1) / temperature
            total, rank = log_sum_exp(queries, keys, temperature, positive.detach(), own)
            losses.append(total - positive)
            ranks.append(rank)
        loss = global_batch(torch.stack(losses, dim=1), "losses of the queries").mean()
        rank = global_batch(torch.stack(ranks, dim=1), "ranks of the keys")
        return {
            "loss": 2 * LOSS_OVER_TEMPERATURE * temperature * loss,  # two directions
            "contrastive_top1": (rank < 1).double().mean(),
            "mutual_information_bound": InfoNCE.mutual_information_bound(loss, len(rank)),
            "embedding_std": embedding_std(global_batch(q[:, 0].detach(), "queries")),
        }

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """The keys' encoder follows, parameters alone, with the share of the step that is to come.

        The published code moves it after the queries' forward pass of that step, by the same weights.
        """
        momentum = rising_momentum(self.config.momentum, step + 1, steps)
        follow(self.key_encoder, self.encoder, momentum)
        follow(self.key_projection, self.projection, momentum)

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Cross-entropies of matrices of cosines."""
        loss = torch.zeros((), dtype=torch.float64, device=batch.device)
        own = torch.arange(len(batch), device=batch.device)
        for view in (0, 1):
            q, k = embeddings["q"][:, view], targets["k"][:, 1 - view]
            cosines = (q / q.norm(dim=1, keepdim=True)) @ (k / k.norm(dim=1, keepdim=True)).T
            loss = loss + 2 * self.config.temperature * F.cross_entropy(cosines / self.config.temperature, own)
        return loss
