"""A method of no use, with all that the seam allows: two groups of views, several embeddings, a teacher, a queue and a
bank, numbers drawn for images, and collectives of its own."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.methods.base import Batch, Method, MethodKeys, Rate, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.models.projection import Projection

DIM = 128


class ToyMethod(Method):
    """A query and local crops against a teacher's key, a queue of keys and a bank of one row an image."""

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        queue: int = 8192
        """Rows of the queue."""

    @classmethod
    def views(cls, config: Any) -> dict[str, ViewGroup]:
        return {"global": ViewGroup(count=2), "local": ViewGroup(count=3, size=16)}

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.encoder = make.encoder()
        self.head = make.projection(self.encoder.output_dim, Projection())
        self.teacher = deepcopy(self.head).requires_grad_(False)
        self.frozen = torch.nn.Linear(DIM, DIM)
        self.register_buffer("queue", make.unit_rows(config.queue, DIM))
        self.register_buffer("bank", make.unit_rows(images, DIM))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))

    def targets(self, batch: Batch) -> Tensors:
        return {"key": F.normalize(self.teacher(self.encoder(batch.views["global"][:, 1])))}

    def embed(self, batch: Batch) -> Tensors:
        local = batch.views["local"]
        query = self.frozen(self.head(self.encoder(batch.views["global"][:, 0])))
        crops: Tensor = self.head(self.encoder(local.flatten(0, 1)))
        noise = 1e-3 * batch.draws("noise", DIM).to(query.dtype)
        return {"query": query + noise, "crops": crops.unflatten(0, local.shape[:2])}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        query, key = F.normalize(embeddings["query"]), targets["key"]
        others = torch.cat([self.queue, self.bank[batch.samples]])
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ others.T], 1)
        crops = (F.normalize(embeddings["crops"], dim=2) * key[:, None]).sum(2)
        own = torch.stack([F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64)), -crops.mean()])
        return {"loss": global_batch(own[None], label="losses of the processes").mean(0).sum()}

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        keys = global_batch(targets["key"], label="keys of the queue")
        samples = global_batch(batch.samples, label="samples of the bank")
        self.bank[samples] = keys
        first = int(self.pointer)  # a value that a plan does not have
        self.queue[first : first + len(keys)] = keys
        self.pointer.fill_((first + len(keys)) % len(self.queue))

    def rates(self) -> Sequence[Rate]:
        return [Rate(lambda name, parameter: name.startswith("frozen."), lambda moment: None)]


class ReadsValues(ToyMethod):
    """Its loss is over as many rows as some values say."""

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        return {"loss": embeddings["query"][embeddings["query"][:, 0] > 0].mean()}
