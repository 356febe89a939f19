"""SupCon: labels say which views belong together; the supervised contrastive loss over the global batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config.fields import MOST_CHANNELS, number, one_of
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.losses.sup_con import sup_con
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import like_moco


class SupCon(Method):
    """Khosla et al. 2020 (arXiv 2004.11362), the loss L_out, with the constants of its published code."""

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="SupCon", paper="Khosla et al. 2020", arxiv="2004.11362",
        published=Published(78.7, epochs=700, from_memory=True),
        equation="L = T/T_base 1/|A| sum_{i in A} [log sum_{j != i} exp(s_ij) - 1/|P(i)| sum_{p in P(i)} s_ip]",
    )  # fmt: skip

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of SupCon."""

        temperature: float = number(0.1, low=0.002)
        """Divides the similarities."""
        base_temperature: float = number(0.07, above=0.0)
        """The loss is multiplied by temperature / base_temperature, 1.43 with the published code's constants; the paper
        multiplies it by the temperature alone (1 here). LARS hides the factor from weights only."""
        contrast_mode: str = one_of("all", ("all", "one"))
        """Anchors: `all` views of an image, or `one`, its first; candidates are all views of all images."""
        output_dim: int = number(128, low=2, high=MOST_CHANNELS)
        """Size of the embedding; the hidden layer is as wide as the encoder's features."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "contrastive_top1": Metric(
            title="contrastive top-1", unit="%", role="headline", band=True, from_zero=True,
            text="the most similar view of the batch is of the same class",
            below="the learning rate, recipe.method.temperature and, in metrics.jsonl, embedding_std (0: collapse)",
            above="whether the classes are those that the band is of",
        ),
        "embedding_std": EMBEDDING_STD,
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        features = self.encoder.output_dim
        self.projection = make.mlp((features, features, config.output_dim), bias=True, norm=False)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """Two views drawn alike, without blur."""
        return like_moco(blur_probability=0.0)

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With embeddings of 32 numbers."""
        return replace(config, output_dim=32)

    def embed(self, batch: Batch) -> Tensors:
        """``z``: unit embeddings (images, 2, d) of the two views."""
        views = batch.views["global"]
        z = F.normalize(self.projection(self.encoder(views.flatten(0, 1))), dim=1)
        return {"z": z.unflatten(0, views.shape[:2])}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 2, averaged over the anchors of the global batch."""
        assert batch.labels is not None  # ``needs`` refuses images without labels
        z, keys = embeddings["z"], self.config
        result = sup_con(z, batch.labels, keys.temperature, keys.base_temperature, keys.contrast_mode)
        return {
            "loss": result.loss,
            "contrastive_top1": result.top1,
            "embedding_std": embedding_std(global_batch(z.detach(), "embeddings").flatten(0, 1)),
        }

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Anchor by anchor, the mean of -log p over the other views of its class."""
        assert batch.labels is not None
        z, labels = embeddings["z"].flatten(0, 1), batch.labels.repeat_interleave(2)
        step = {"all": 1, "one": 2}[self.config.contrast_mode]
        losses = []
        for anchor in range(0, len(z), step):
            others = torch.arange(len(z), device=z.device) != anchor
            log_p = F.log_softmax(z[others] @ z[anchor] / self.config.temperature, dim=0)
            losses.append(-log_p[labels[others] == labels[anchor]].mean())
        return self.config.temperature / self.config.base_temperature * torch.stack(losses).mean()
