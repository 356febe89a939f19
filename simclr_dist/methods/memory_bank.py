"""NPID: every image a class of its own, against a bank of the embeddings that all images had when last seen."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number, one_of
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.bank import log_sum_exp, sampled_scores
from simclr_dist.losses.infonce import MUTUAL_INFORMATION_BOUND, InfoNCE, contrastive_top1
from simclr_dist.losses.nce import NCE
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts

_EPSILON = 1e-7  # of the published code's NCE


class MemoryBank(Method):
    """Wu et al. 2018 (arXiv 1805.01978), with the views and the NCE of its published code.

    The bank is one for all processes: a row for every image of the data set, by sample id. Noise samples are drawn from
    (seed, epoch, sample id), uniformly, the image itself not left out. Z is fixed by the first global batch.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="NPID", paper="Wu et al. 2018", arxiv="1805.01978", keeps=("bank",),
        published=Published(54.99, epochs=200),
        equation=(
            "P(i | f) = exp(v_i.f / T) / Z        loss = -log P(i|f) / (P(i|f) + K/N) - sum "
            "over noise k of log (K/N) / (P(k|f) + K/N)"
        ),
    )  # fmt: skip

    bank: Tensor
    log_z: Tensor
    z_is_fixed: Tensor

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of NPID."""

        loss: str = one_of("nce", ("nce", "infonce"))
        """`nce`: data against noise, with a constant Z. `infonce`: cross-entropy of the image's own row among the
        candidates, without a Z."""
        noise_samples: int = number(4096, low=0, high=262144)
        """Rows of the bank that each image is held against. 0: the whole bank (the full softmax; `infonce` alone)."""
        temperature: float = number(0.07, low=0.01)
        """Divides the similarities (the paper: 0.1 for CIFAR-10)."""
        momentum: float = number(0.5, low=0.0, high=1.0)
        """A row becomes momentum * itself + (1 - momentum) * the embedding, of unit length."""
        output_dim: int = number(128, low=2, high=MOST_CHANNELS)
        """Size of the embedding; the bank has images * output_dim * 4 bytes."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "contrastive_top1": contrastive_top1("the image's own row is more similar than those of all other candidates"),
        "mutual_information_bound": MUTUAL_INFORMATION_BOUND,
        "embedding_std": EMBEDDING_STD,
    }

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.projection = make.mlp((self.encoder.output_dim, config.output_dim), bias=True, norm=False)
        # Uniform, of about unit length, as the published code begins.
        limit = math.sqrt(3 / config.output_dim)
        self.register_buffer("bank", torch.empty(images, config.output_dim).uniform_(-limit, limit))
        if config.loss == "nce":
            self.register_buffer("log_z", torch.tensor(0.0))
            self.register_buffer("z_is_fixed", torch.tensor(0))
            self._found_log_z = self.log_z  # of the step under way

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """One view of an image: crops of 0.2 and more, the same jitter of all four colours always, no blur."""
        view = ViewGroup(count=1, crop_area_min=0.2, color_probability=1.0, blur_probability=0.0)
        return {"global": replace(view, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)}

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Refuse NCE without noise."""
        super().check(recipe)
        keys = recipe.method
        if keys.loss == "nce" and not keys.noise_samples:  # type: ignore[attr-defined]
            raise ValueError(
                "recipe.method.noise_samples: 0 is the softmax over the whole bank, which nce does not have; give a "
                "number, or recipe.method.loss=infonce"
            )

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With few noise samples and embeddings of 32 numbers."""
        return replace(config, noise_samples=min(config.noise_samples, images), output_dim=32)

    def targets(self, batch: Batch) -> Tensors:
        """``noise``: which rows of the bank each image is held against, int64 (images, noise_samples)."""
        drawn = batch.draws("memory_bank's noise", self.config.noise_samples)
        return {"noise": (drawn * len(self.bank)).long()}

    def embed(self, batch: Batch) -> Tensors:
        """``f``: unit embeddings (images, d)."""
        return {"f": F.normalize(self.projection(self.encoder(batch.views["global"].flatten(0, 1))), dim=1)}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Of each image's row against noise (equations 4 and 7) or against the bank (2), mean over the global batch."""
        f, noise = embeddings["f"], targets["noise"]
        own, temperature = batch.samples.to(f.device), self.config.temperature
        if noise.shape[1]:
            candidates = torch.cat((own[:, None], noise), dim=1)
            scores = sampled_scores(f, self.bank, candidates) / temperature
            rank = ((scores[:, 1:] >= scores[:, :1]) & (noise != own[:, None])).sum(1)
            losses = self._nce(scores) if self.config.loss == "nce" else InfoNCE()(scores)
        else:
            positive = (f * self.bank[own].to(f.dtype)).sum(1) / temperature
            total, rank = log_sum_exp(f, self.bank, temperature, positive.detach(), own)
            losses = total - positive
        loss = global_batch(losses, "losses of the images").mean()
        if self.config.loss == "nce":
            bound = NCE.mutual_information_bound(loss, noise.shape[1])
        else:
            bound = InfoNCE.mutual_information_bound(loss, noise.shape[1] + 1 if noise.shape[1] else len(self.bank))
        return {
            "loss": loss,
            "contrastive_top1": (global_batch(rank, "ranks of the rows") < 1).double().mean(),
            "mutual_information_bound": bound,
            "embedding_std": embedding_std(global_batch(f.detach(), "embeddings")),
        }

    def _nce(self, scores: Tensor) -> Tensor:
        """The losses (images,), with log p = score - log Z; log Z is found from the first global batch."""
        everyone = global_batch(scores.detach().logsumexp(1), "sums of the scores")
        images = math.log(len(self.bank))
        found = everyone.logsumexp(0) - math.log(len(everyone) * scores.shape[1]) + images
        self._found_log_z = torch.where(self.z_is_fixed > 0, self.log_z.to(found.dtype), found)
        return NCE(_EPSILON)(scores - self._found_log_z, -images)

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """The rows of the images of the global batch move towards their embeddings; the first one fixes Z."""
        f = global_batch(embeddings["f"], "embeddings of the bank").to(self.bank.dtype)
        places = global_batch(batch.samples.to(self.bank.device), "places in the bank")
        moved = self.config.momentum * self.bank[places] + (1 - self.config.momentum) * f
        self.bank[places] = F.normalize(moved, dim=1)
        if self.config.loss == "nce":
            self.log_z.copy_(self._found_log_z)
            self.z_is_fixed.fill_(1)

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Row by row: probabilities, and the logarithms of their ratios (equations 4, 7 and 8)."""
        rows = len(self.bank)
        exponentials, own = [], batch.samples.to(self.bank.device)
        for f, sample, noise in zip(embeddings["f"], own, targets["noise"], strict=True):
            others = noise if len(noise) else torch.arange(rows, device=noise.device)
            exponentials.append(torch.exp(self.bank[torch.cat((sample[None], others))] @ f / self.config.temperature))
        e = torch.stack(exponentials)
        if self.config.loss == "infonce":
            return -(e[:, 0] / (e.sum(1) if self.config.noise_samples else e[:, 1:].sum(1))).log().mean()
        z = self.log_z.exp() if self.z_is_fixed else rows * e.detach().mean()
        p, expected = e / z, (e.shape[1] - 1) / rows
        data = p[:, 0] / (p[:, 0] + expected + _EPSILON)
        noise = expected / (p[:, 1:] + expected + _EPSILON)
        return -(data.log() + noise.log().sum(1)).mean()
