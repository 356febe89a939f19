"""Small methods of the seam, one that keeps its rules and others that break one each."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.distributed.collectives import gather_stacked, process_rank
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.methods.base import Batch, Method, Metric, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts


def name_of(method: type[Method]) -> str:
    """For recipe.method.name."""
    return f"{method.__module__}:{method.__name__}"


class Toy(Method):
    """Views of two sizes, in two calls of the encoder: those of an image near each other, and all rows spread.

    It keeps the mean of the large views and the label of every image's last visit.
    """

    METRICS: ClassVar[Mapping[str, Metric]] = {"spread": Metric(title="spread", role="collapse")}
    needs = frozenset({"labels"})
    centre: Tensor
    bank: Tensor

    def __init__(self, config: Any, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.head = make.mlp((self.encoder.output_dim, 8), bias=True, norm=False)
        self.prototypes = nn.Linear(8, 8, bias=False)
        self.register_buffer("centre", torch.zeros(8))
        self.register_buffer("bank", torch.zeros(images, dtype=torch.int64))

    @classmethod
    def views(cls, config: Any) -> dict[str, ViewGroup]:
        return {"large": ViewGroup(count=1), "small": ViewGroup(count=2, size=8, crop_area_max=0.4)}

    def embed(self, batch: Batch) -> Tensors:
        return {name: self._projected(views) for name, views in batch.views.items()}

    def _projected(self, views: Tensor) -> Tensor:
        z: Tensor = self.prototypes(self.head(self.encoder(views.flatten(0, 1))))
        return z.unflatten(0, views.shape[:2])

    def gathered(self, own: Tensor) -> Tensor:
        return global_batch(own)

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        large, small = (F.normalize(self.gathered(embeddings[name]), dim=-1) for name in ("large", "small"))
        near = 1 - (large * small).sum(-1).mean()
        spread = (large[:, 0] @ large[:, 0].T).square().mean()
        return {"loss": near + spread, "spread": spread.detach()}

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        self.centre.lerp_(global_batch(embeddings["large"]).mean((0, 1)).to(self.centre.dtype), 0.1)
        assert batch.labels is not None
        samples = global_batch(batch.samples)
        self.bank[samples.to(self.bank.device)] = global_batch(batch.labels)


class StopsGradients(Toy):
    """Its small views are what the large ones are held against: no gradient goes back through them (SimSiam)."""

    def embed(self, batch: Batch) -> Tensors:
        made = super().embed(batch)
        return made | {"small": made["small"].detach()}


class RemoteRowsDetached(Toy):
    """The usual tutorial: rows of other processes without their gradient, so each misses what the others pull."""

    def gathered(self, own: Tensor) -> Tensor:
        rows = list(gather_stacked(own.detach()))
        rows[process_rank()] = own
        return torch.cat(rows)


class StateByRank(Toy):
    """Each process keeps the mean of its own images."""

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        self.centre.lerp_(embeddings["large"].mean((0, 1)).to(self.centre.dtype), 0.1)


class OwnMetric(Toy):
    """A metric of the own images only."""

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        return super().loss(embeddings, targets, batch) | {"spread": embeddings["large"].detach().std()}


class OtherLoss(Toy):
    """Its loss is not that of its reference."""

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        return 0.99 * self.loss(embeddings, targets, batch)["loss"]


class TrainedInLoss(Toy):
    """Its prototypes act in the loss, outside DistributedDataParallel when there are chunks."""

    def _projected(self, views: Tensor) -> Tensor:
        z: Tensor = self.head(self.encoder(views.flatten(0, 1)))
        return z.unflatten(0, views.shape[:2])

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        return super().loss({name: self.prototypes(each) for name, each in embeddings.items()}, targets, batch)


class BufferInLoss(Toy):
    """Its centre moves in the loss, so a skipped step would leave a trace."""

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        self.centre.add_(1)
        return super().loss(embeddings, targets, batch)


class UndescribedMetric(Toy):
    """Returns what METRICS does not have."""

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        return super().loss(embeddings, targets, batch) | {"surprise": torch.zeros(())}


class AbsentMetric(Toy):
    """Does not return what METRICS has."""

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        return {"loss": super().loss(embeddings, targets, batch)["loss"]}


class NoLoss(Toy):
    """Returns metrics alone."""

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        return {"spread": super().loss(embeddings, targets, batch)["spread"]}


class NothingTrained(Toy):
    """Its loss is cut off from the embeddings."""

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        return super().loss({name: each.detach() for name, each in embeddings.items()}, targets, batch)
