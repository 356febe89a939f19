"""DenseCL: MoCo v2 and, beside it, each place of a view's map against the place of the other view most like it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, MOST_KEYS, number
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.infonce import contrastive_top1
from simclr_dist.losses.spread import EMBEDDING_STD, embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Tensors, ViewGroup
from simclr_dist.methods.keys import KeyShuffle, enqueue, query_losses, refuse_short_queue
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import like_moco
from simclr_dist.models.follower import follow, follower_of


class Heads(nn.Module):
    """Of a map (rows, C, h, w): the head of the pooled features, and the one of each of its places."""

    def __init__(self, make: Parts, features: int, output_dim: int) -> None:
        super().__init__()
        self.pooled = make.mlp((features, features, output_dim), bias=True, norm=False)
        self.dense = make.mlp((features, features, output_dim), bias=True, norm=False)

    def forward(self, pooled: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Features (rows, C) and places (rows, S, C) to (rows, d) and (rows, S, d), of any length."""
        return self.pooled(pooled), self.dense(places.flatten(0, 1)).unflatten(0, places.shape[:2])


class DenseCL(Method):
    """Wang et al. 2021 (arXiv 2011.09157), as its published code computes it, with one queue for all processes.

    The places of the key's view that belong to those of the query's are found by the backbone's features. A dense
    queue keeps the mean of each image's dense keys.
    """

    recordable = True
    HEAD: ClassVar[str] = "projection.pooled"
    ABOUT: ClassVar[About | None] = About(
        title="DenseCL", paper="Wang et al. 2021", arxiv="2011.09157", keeps=("second encoder", "queue"),
        equation=(
            "L = (1 - lambda) MoCo's of pooled features + lambda mean over places s of -log exp(q_s.k_c(s)/T) /\n"
            "    [exp(q_s.k_c(s)/T) + sum over the dense queue of exp(q_s.n/T)]\n"
            "c(s) = the place of the key's view whose backbone features have the largest cosine with those of s"
        ),
    )  # fmt: skip

    queue: Tensor
    dense_queue: Tensor
    queue_next: Tensor
    dense_queue_next: Tensor

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of DenseCL."""

        dense_weight: float = number(0.5, low=0.0, high=1.0)
        """Lambda: the dense loss has this share, the loss of pooled features the rest."""
        temperature: float = number(0.2, above=0.0)
        """Divides the similarities."""
        momentum: float = number(0.999, low=0.0, high=1.0)
        """After a step the keys' encoder is momentum * itself + (1 - momentum) * the queries' encoder."""
        queue_keys: int = number(65536, low=1, high=MOST_KEYS)
        """Keys of earlier images in each of the two queues; at least those of a global batch."""
        output_dim: int = number(128, low=2, high=MOST_CHANNELS)
        """Size of queries and keys."""
        shuffled_batch_norm: bool = True
        """Batch-norm groups of keys are of other images than those of queries; needs groups below the global batch."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "contrastive_top1": contrastive_top1("the key is more similar than all of the queue"),
        "dense_top1": Metric(
            title="dense contrastive top-1", unit="%", from_zero=True,
            text="the key of a place is more similar than all of the dense queue",
        ),
        "dense_loss": Metric(title="loss of the places", text="without its weight"),
        "embedding_std": EMBEDDING_STD,
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        group, batch = make.recipe.batch_norm_group_images, make.recipe.global_batch_images
        self.shuffle = KeyShuffle("densecl's shuffled batch norm", config.shuffled_batch_norm, group, batch)
        self.encoder = make.encoder()
        self.projection = Heads(make, self.encoder.output_dim, config.output_dim)
        self.key_encoder, self.key_projection = follower_of(self.encoder), follower_of(self.projection)
        for name in ("queue", "dense_queue"):
            self.register_buffer(name, make.unit_rows(config.queue_keys, config.output_dim))
            self.register_buffer(f"{name}_next", torch.tensor(0))  # where the next key goes

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """The query's view and the key's, drawn alike."""
        return like_moco()

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Also refuses a queue that a global batch does not fit into."""
        super().check(recipe)
        keys: Any = recipe.method
        refuse_short_queue(keys.queue_keys, recipe.global_batch_images, "recipe.global_batch_images")

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With queues of one and a half global batches, which wrap in the second step."""
        return replace(config, queue_keys=min(config.queue_keys, images + images // 2), output_dim=32)

    def prepare(self, batch: Batch) -> Batch:
        """With the views (images, 3, s, s) of queries and of the keys that belong to them in groups of their own; the
        keys' are shuffled, of other processes too."""
        queries, keys = batch.views["global"].unbind(1)
        return replace(batch, views={"query": queries, "key": self.shuffle.shuffled(keys, batch)})

    def targets(self, batch: Batch) -> Tensors:
        """Of the images that ``prepare`` has put there: unit keys ``k`` (images, d), of places ``dense`` (images, S, d)
        and of their mean ``mean`` (images, d); unit ``features`` of places (images, S, C)."""
        pooled, dense, features = _made(batch.views["key"], self.key_encoder, self.key_projection)
        return {
            "k": F.normalize(pooled, dim=1), "dense": F.normalize(dense, dim=2), "features": features,
            "mean": F.normalize(dense.mean(1), dim=1),
        }  # fmt: skip

    def embed(self, batch: Batch) -> Tensors:
        """Unit queries ``q`` (images, d) and of places ``dense`` (images, S, d); unit ``features`` of places
        (images, S, C), without a gradient."""
        pooled, dense, features = _made(batch.views["query"], self.encoder, self.projection)
        return {"q": F.normalize(pooled, dim=1), "dense": F.normalize(dense, dim=2), "features": features.detach()}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equations 1 to 4: cross-entropy of each query's key over it and the queue, averaged over the global batch."""
        keys = {name: self.shuffle.own_in_order(targets[name], batch) for name in ("k", "dense", "features")}
        with torch.no_grad():
            nearest = torch.bmm(embeddings["features"], keys["features"].transpose(1, 2)).argmax(2)
        positives = keys["dense"].gather(1, nearest[:, :, None].expand_as(keys["dense"]))
        temperature, weight = self.config.temperature, self.config.dense_weight
        losses, rank = query_losses(embeddings["q"], keys["k"], self.queue, temperature)
        dense = embeddings["dense"].flatten(0, 1), positives.flatten(0, 1)
        dense_losses, dense_rank = (
            each.view(nearest.shape) for each in query_losses(*dense, self.dense_queue, temperature)
        )
        pooled = global_batch(losses, "losses of the queries").mean()
        places = global_batch(dense_losses.mean(1), "losses of the places").mean()
        return {
            "loss": (1 - weight) * pooled + weight * places,
            "contrastive_top1": (global_batch(rank, "ranks of the keys") < 1).double().mean(),
            "dense_top1": global_batch((dense_rank < 1).double().mean(1), "ranks of the places").mean(),
            "dense_loss": places.detach(),
            "embedding_std": embedding_std(global_batch(embeddings["q"].detach(), "queries")),
        }

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """The keys take the places of the oldest ones; the keys' encoder follows, parameters alone."""
        enqueue(self.queue, self.queue_next, self.shuffle.in_order(targets["k"], batch))
        enqueue(self.dense_queue, self.dense_queue_next, self.shuffle.in_order(targets["mean"], batch))
        follow(self.key_encoder, self.encoder, self.config.momentum)
        follow(self.key_projection, self.projection, self.config.momentum)

    def embedding_rows(self, embeddings: Tensors) -> Tensor | None:
        """The queries of pooled features."""
        return embeddings["q"]

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy of each query's key, then of each place's, image by image."""
        keys = {name: self.shuffle.plainly_in_order(each, batch) for name, each in targets.items()}

        def of(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
            return -F.log_softmax(torch.cat((key[None], queue)) @ query / self.config.temperature, dim=0)[0]

        losses, dense_losses = [], []
        for image, query in enumerate(embeddings["q"]):
            losses.append(of(query, keys["k"][image], self.queue))
            for place, dense in enumerate(embeddings["dense"][image]):
                nearest = (keys["features"][image] @ embeddings["features"][image][place]).argmax()
                dense_losses.append(of(dense, keys["dense"][image][nearest], self.dense_queue))
        weight = self.config.dense_weight
        return (1 - weight) * torch.stack(losses).mean() + weight * torch.stack(dense_losses).mean()


def _made(views: Tensor, encoder: Any, heads: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings (images, d) and (images, S, d), and unit features of the places (images, S, C)."""
    maps = encoder.map(views)
    places = maps.flatten(2).transpose(1, 2)
    pooled, dense = heads(encoder.pool(maps), places)
    return pooled, dense, F.normalize(places, dim=2)
