"""MoCo v1 and v2: a query against its key and a queue of earlier keys, from an encoder that follows slowly."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, MOST_KEYS, number, one_of
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.infonce import MUTUAL_INFORMATION_BOUND, InfoNCE, contrastive_top1
from simclr_dist.losses.spread import embedding_std
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors, ViewGroup
from simclr_dist.methods.keys import KeyShuffle, enqueue, query_losses, refuse_short_queue
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import like_moco
from simclr_dist.models.follower import follow, follower_of


class MoCo(Method):
    """He et al. 2020 (arXiv 1911.05722) with the head and views of v2 (Chen et al. 2020, arXiv 2003.04297) or v1's.

    v1 is ``head: linear`` at temperature 0.07, with views of color_probability 1, hue 0.4 and no blur.
    The queue is one for all processes, in the order of the global batches. Shuffled batch norm is a permutation of the
    global batch, drawn from (seed, epoch, sample ids), before the keys' batch norm takes its groups of images: it makes
    sense with recipe.batch_norm_group_images (published: 32), and needs no particular number of processes.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="MoCo v2", paper="He et al. 2020", arxiv="1911.05722", keeps=("second encoder", "queue"),
        published=Published(67.5, epochs=200),
        equation=(
            "L = mean over images of -log exp(q.k/T) / [exp(q.k/T) + sum over the queue of exp(q.n/T)]\n"
            "key encoder <- m key encoder + (1 - m) encoder"
        ),
    )  # fmt: skip

    queue: Tensor
    queue_next: Tensor

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of MoCo."""

        head: str = one_of("mlp", ("mlp", "linear"))
        """`mlp`: two layers, the hidden one as wide as the encoder's features (v2). `linear`: one (v1)."""
        temperature: float = number(0.2, above=0.0)
        """Divides the similarities (v1: 0.07)."""
        momentum: float = number(0.999, low=0.0, high=1.0)
        """After a step the keys' encoder is momentum * itself + (1 - momentum) * the queries' encoder."""
        queue_keys: int = number(65536, low=1, high=MOST_KEYS)
        """Keys of earlier images, kept as negatives; at least those of a global batch."""
        output_dim: int = number(128, low=2, high=MOST_CHANNELS)
        """Size of queries and keys."""
        shuffled_batch_norm: bool = True
        """Batch-norm groups of keys are of other images than those of queries; needs groups below the global batch."""
        symmetric: bool = False
        """Each view is query and key: the mean of both directions, twice the passes and keys (MoCo v2+)."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "contrastive_top1": contrastive_top1("the key is more similar than all of the queue"),
        "contrastive_top5": Metric(title="contrastive top-5", unit="%", from_zero=True),
        "mutual_information_bound": MUTUAL_INFORMATION_BOUND,
        "embedding_std": Metric(title="spread of the queries", role="collapse", from_zero=True, text="0: collapse"),
    }

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        group, batch = make.recipe.batch_norm_group_images, make.recipe.global_batch_images
        self.shuffle = KeyShuffle("moco's shuffled batch norm", config.shuffled_batch_norm, group, batch)
        self.encoder = make.encoder()
        hidden = (self.encoder.output_dim,) if config.head == "mlp" else ()
        sizes = (self.encoder.output_dim, *hidden, config.output_dim)
        self.projection = make.mlp(sizes, bias=True, norm=False)
        self.key_encoder, self.key_projection = follower_of(self.encoder), follower_of(self.projection)
        self.register_buffer("queue", make.unit_rows(config.queue_keys, config.output_dim))
        self.register_buffer("queue_next", torch.tensor(0))  # where the next key goes

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """The query's view and the key's, drawn alike."""
        return like_moco()

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Also refuses a queue that a global batch does not fit into."""
        super().check(recipe)
        keys: Any = recipe.method
        batch = recipe.global_batch_images * (2 if keys.symmetric else 1)
        of = "recipe.global_batch_images, twice with recipe.method.symmetric"
        refuse_short_queue(keys.queue_keys, batch, of)

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With a queue of one and a half global batches, which wraps in the second step."""
        keys = (images + images // 2) * (2 if config.symmetric else 1)
        return replace(config, queue_keys=min(config.queue_keys, keys), output_dim=32)

    def prepare(self, batch: Batch) -> Batch:
        """With the views (images, directions, 3, s, s) of queries and of the keys that belong to them in groups of
        their own; the keys' are shuffled, of other processes too."""
        queries, keys = batch.views["global"], batch.views["global"].flip(1)
        if not self.config.symmetric:
            queries, keys = queries[:, :1], keys[:, :1]
        return replace(batch, views={"query": queries, "key": self.shuffle.shuffled(keys, batch)})

    def targets(self, batch: Batch) -> Tensors:
        """``k``: unit keys (images, directions, d), of the images that ``prepare`` has put there."""
        return {"k": _unit(batch.views["key"], self.key_encoder, self.key_projection)}

    def embed(self, batch: Batch) -> Tensors:
        """``q``: unit queries (images, directions, d)."""
        return {"q": _unit(batch.views["query"], self.encoder, self.projection)}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 1: each query's cross-entropy over its key and the queue, averaged over the global batch."""
        q, directions = embeddings["q"].flatten(0, 1), embeddings["q"].shape[1]
        k = self.shuffle.own_in_order(targets["k"], batch).flatten(0, 1)
        losses, rank = query_losses(q, k, self.queue, self.config.temperature)
        loss = global_batch(losses.view(-1, directions), "losses of the queries").mean()
        rank = global_batch(rank.view(-1, directions), "ranks of the keys")
        return {
            "loss": loss,
            "contrastive_top1": (rank < 1).double().mean(),
            "contrastive_top5": (rank < 5).double().mean(),
            "mutual_information_bound": InfoNCE.mutual_information_bound(loss, len(self.queue) + 1),
            "embedding_std": embedding_std(global_batch(embeddings["q"][:, 0].detach(), "queries")),
        }

    def after_update(self, embeddings: Tensors, targets: Tensors, batch: Batch, step: int, steps: int) -> None:
        """The keys take the place of the oldest ones; the keys' encoder follows (equation 2), parameters alone."""
        keys = self.shuffle.in_order(targets["k"], batch).transpose(0, 1).flatten(0, 1)
        enqueue(self.queue, self.queue_next, keys)
        follow(self.key_encoder, self.encoder, self.config.momentum)
        follow(self.key_projection, self.projection, self.config.momentum)

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Cross-entropy of each query's key among the queue."""
        keys = self.shuffle.plainly_in_order(targets["k"], batch)
        pairs = zip(embeddings["q"].flatten(0, 1), keys.flatten(0, 1), strict=True)
        logits = [torch.cat((k[None], self.queue)) @ q / self.config.temperature for q, k in pairs]
        return -torch.stack([F.log_softmax(each, dim=0)[0] for each in logits]).mean()


def _unit(views: Tensor, encoder: nn.Module, projection: nn.Module) -> Tensor:
    """Unit embeddings (images, directions, d), a pass for each direction."""
    return torch.stack([F.normalize(projection(encoder(each)), dim=1) for each in views.unbind(1)], dim=1)
