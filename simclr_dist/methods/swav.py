"""SwAV: each view predicts to which prototypes the other view of its image is assigned, also small views."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, MOST_KEYS, number
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.sinkhorn import sinkhorn
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Rate, Tensors, ViewGroup
from simclr_dist.methods.multi_crop import check_small, features_by_size, with_small
from simclr_dist.methods.parts import Parts

_ASSIGNED = 2  # whole views, to which small ones are held, and not the reverse


class SwAV(Method):
    """Caron et al. 2020 (arXiv 2006.09882), with multi-crop and the queue of its published code.

    Assignments are of the global batch and one queue for all processes, in the order of the global batches (the
    published code has a queue of its own in each process). Prototypes are of unit length before every step, frozen
    or not.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="SwAV", paper="Caron et al. 2020", arxiv="2006.09882", keeps=("prototypes",),
        published=Published(75.3, epochs=800),
        equation=(
            "loss = mean over s and views t != s of - sum over k of q_sk log softmax(z_t.c / "
            "T)_k       q = Sinkhorn(exp(z_s.c / epsilon))"
        ),
    )  # fmt: skip

    queue: Tensor
    queue_filled: Tensor

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of SwAV."""

        prototypes: int = number(3000, low=2, high=MOST_CHANNELS)
        """How many there are."""
        temperature: float = number(0.1, above=0.0)
        """Divides the scores of the prediction."""
        epsilon: float = number(0.05, low=0.01)
        """Entropy of the assignments; smaller is sharper."""
        sinkhorn_iterations: int = number(3, low=1, high=1000)
        """Of the assignment."""
        small_views: int = number(6, low=0, high=62)
        """Small views of an image beside the two whole ones (the group `small`; 0: none)."""
        frozen_steps: int = number(313, low=0)
        """Steps at the start in which the prototypes do not move (batches of 256: 5005)."""
        queue_keys: int = number(0, low=0, high=MOST_KEYS)
        """Embeddings of earlier images that take part in the assignments, of each whole view (batches of 256: 3840)."""
        queue_from_epoch: int = number(15, low=0)
        """The first epoch, counted from 0, whose embeddings enter the queue; it is used once it is full."""
        hidden_dim: int = number(2048, low=2, high=MOST_CHANNELS)
        """Units of the hidden layer of the head."""
        output_dim: int = number(128, low=2, high=MOST_CHANNELS)
        """Size of the embedding and of the prototypes."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "assignment_agreement": Metric(
            title="agreement of assignments", unit="%", role="headline", band=True, from_zero=True,
            text="the two whole views of an image are nearest to the same prototype",
            below="the views (simclr-dist preview: are they too different?) and the learning rate",
            above="the views (are they too much alike?) and, in metrics.jsonl, prototype_perplexity (1: collapse)",
        ),
        "prototype_perplexity": Metric(
            title="prototypes in use", from_zero=True, text="exp of the entropy of the mean prediction",
        ),
        "embedding_std": EMBEDDING_STD,
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        sizes = (self.encoder.output_dim, config.hidden_dim, config.output_dim)
        self.projection = make.mlp(sizes, bias=True, norm=True)
        self.prototypes = nn.Linear(config.output_dim, config.prototypes, bias=False)
        self.prototypes.weight.data = F.normalize(self.prototypes.weight.data, dim=1)
        if config.queue_keys:
            self.register_buffer("queue", torch.zeros(_ASSIGNED, config.queue_keys, config.output_dim))
            self.register_buffer("queue_filled", torch.tensor(0))

    @classmethod
    def views(cls, config: Config) -> dict[str, ViewGroup]:
        """Two whole views, and small ones of 96 pixels."""
        return with_small({"global": ViewGroup(count=_ASSIGNED, crop_area_min=0.14)}, config.small_views, ViewGroup())

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Refuse small views that are larger than the whole ones."""
        super().check(recipe)
        check_small(recipe, whole="global")

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With 12 prototypes, a narrow head, and prototypes that move after one step."""
        return replace(
            config, prototypes=min(config.prototypes, 12), frozen_steps=min(config.frozen_steps, 1),
            queue_keys=min(config.queue_keys, 2 * images), hidden_dim=32, output_dim=16,
        )  # fmt: skip

    def embed(self, batch: Batch) -> Tensors:
        """Unit embeddings ``z`` (images, views, d) and ``scores`` (images, views, prototypes), whole views first.

        Each size goes through the encoder by itself, all through the head together, as in the published code.
        """
        names = [name for name in ("global", "small") if name in batch.views]
        features = features_by_size(self.encoder, *(batch.views[name] for name in names))
        z = F.normalize(self.projection(features.flatten(0, 1)), dim=1)
        return {
            name: each.unflatten(0, features.shape[:2]) for name, each in (("z", z), ("scores", self.prototypes(z)))
        }

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equations 1 and 2 with multi-crop: cross-entropy of each other view's prediction, averaged over all."""
        scores, z = embeddings["scores"], embeddings["z"]
        predictions = F.log_softmax(scores / self.config.temperature, dim=2)
        losses = torch.zeros_like(predictions[:, 0, 0])
        for view in range(_ASSIGNED):
            assigned = self._assigned(scores.detach()[:, view], view).to(predictions.dtype)
            of_views = -(assigned[:, None] * predictions).sum(2)
            losses = losses + (of_views.sum(1) - of_views[:, view]) / (scores.shape[1] - 1) / _ASSIGNED
        with torch.no_grad():
            same = scores[:, 0].argmax(1) == scores[:, 1].argmax(1)
            used = global_batch(predictions[:, :_ASSIGNED].exp().mean((0, 1))[None], "mean predictions").mean(0)
        return {
            "loss": global_batch(losses, "losses of the images").mean(),
            "assignment_agreement": global_batch(same, "agreements").double().mean(),
            "prototype_perplexity": torch.special.entr(used).sum().exp(),
            "embedding_std": embedding_std(global_batch(z[:, 0].detach(), "embeddings")),
        }

    def _assigned(self, scores: Tensor, view: int) -> Tensor:
        """Assignments (images, prototypes) of one whole view, with the queue when it is full."""
        takes_part = None
        if self.config.queue_keys:
            # Each process has its part of the queue: sums over prototypes go over all processes.
            queued = self.queue[view].tensor_split(process_count())[process_rank()].to(scores.dtype)
            full = (self.queue_filled >= self.config.queue_keys).to(torch.float64)
            takes_part = torch.cat((full.expand(len(queued)), torch.ones_like(scores[:, 0], dtype=torch.float64)))
            scores = torch.cat((queued @ self.prototypes.weight.detach().to(scores.dtype).T, scores))
        shares = sinkhorn(scores, self.config.epsilon, self.config.sinkhorn_iterations, takes_part)
        return shares if takes_part is None else shares[len(queued) :]

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """The newest embeddings stand first in the queue; prototypes become of unit length for the next step."""
        if self.config.queue_keys and batch.epoch >= self.config.queue_from_epoch:
            newest = global_batch(embeddings["z"][:, :_ASSIGNED], "embeddings of the queue").transpose(0, 1)
            kept = torch.cat((newest.to(self.queue.dtype), self.queue), dim=1)[:, : self.config.queue_keys]
            self.queue.copy_(kept)
            self.queue_filled.add_(newest.shape[1]).clamp_(max=self.config.queue_keys)
        weight = self.prototypes.weight
        weight.copy_(F.normalize(weight, dim=1))

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """The published code's order: assignments of each whole view, then the other views one by one."""
        scores, views = embeddings["scores"], embeddings["scores"].shape[1]
        loss = torch.zeros((), dtype=scores.dtype, device=scores.device)
        for assigned in range(_ASSIGNED):
            with torch.no_grad():
                everyone = scores[:, assigned]
                if self.config.queue_keys and self.queue_filled == self.config.queue_keys:
                    everyone = torch.cat((self.queue[assigned] @ self.prototypes.weight.T, everyone))
                q = torch.exp(everyone / self.config.epsilon).T
                for _ in range(self.config.sinkhorn_iterations):
                    q = q / q.sum(1, keepdim=True) / len(q)
                    q = q / q.sum(0) / q.shape[1]
                q = (q * q.shape[1]).T[-len(scores) :]
            for view in set(range(views)) - {assigned}:
                p = torch.softmax(scores[:, view] / self.config.temperature, dim=1)
                loss = loss - (q * p.log()).sum(1).mean() / (views - 1) / _ASSIGNED
        return loss

    def rates(self) -> Sequence[Rate]:
        """Prototypes are frozen at first: no momentum and no decay moves them either."""
        frozen = self.config.frozen_steps
        return [
            Rate(
                lambda name, _: name == "prototypes.weight",
                lambda moment: None if moment.step < frozen else moment.scheduled,
            )
        ]
