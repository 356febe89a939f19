"""Rotation: which of four quarter turns an image was given."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import one_of
from simclr_dist.losses.classification import classified
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.published_views import one_plain
from simclr_dist.methods.transformations import QUARTER_TURNS, quarter_turns

ALL, ONE = "all", "one"


class Rotation(Method):
    """Gidaris et al. 2018 (arXiv 1803.07728). The copies are turned after the crop and the flip."""

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="RotNet", paper="Gidaris et al. 2018", arxiv="1803.07728", published=Published(48.2, epochs=105),
        equation="L = mean over images i and turns r of -log softmax(W f(turn(i, r)) + b)[r]",
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of rotation."""

        turns: str = one_of(ALL, (ALL, ONE))
        """`all`: every image is in the batch four times, once in each turn (the paper: the task is learned better so).
        `one`: once, in a turn that is drawn (VISSL), which takes a quarter of the memory and time."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "rotation_top1": Metric(
            title="rotation top-1", unit="%", role="headline", band=True, from_zero=True,
            text="the turn of an image is told; by chance 25 %",
            below="the learning rate, and whether the images have an up and a down",
            above="whether something tells the turn without the object: frames, corners, written text",
        ),
    }  # fmt: skip
    PICTURES: ClassVar[str] = "copies turned by the answer (all: 0, 90, 180, 270 degrees), and the view as it was"

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.classifier = make.mlp((self.encoder.output_dim, QUARTER_TURNS), bias=True, norm=False)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """A crop in its own colours."""
        return one_plain(crop_area_min=0.08)

    @classmethod
    def pictures(cls, recipe: Recipe, batch: Batch) -> Tensor:
        """The copies, then the view that they are made of."""
        return torch.cat([turned(batch, recipe.method), batch.views["global"]], dim=1)

    def prepare(self, batch: Batch) -> Batch:
        """With the turned copies (images, 4 or 1, 3, s, s) in the place of the views."""
        return replace(batch, views={"turned": turned(batch, self.config)})

    def targets(self, batch: Batch) -> Tensors:
        """``turn``: the answers (images, 4 or 1), how many quarter turns counter-clockwise."""
        return {"turn": turns_of(batch, self.config)}

    def embed(self, batch: Batch) -> Tensors:
        """``logits`` (images, 4 or 1, 4); ``features`` (images, d) of the first copy, without a gradient."""
        copies = batch.views["turned"]
        features = self.encoder(copies.flatten(0, 1))
        logits: Tensor = self.classifier(features).unflatten(0, copies.shape[:2])
        return {"features": features.detach().unflatten(0, copies.shape[:2])[:, 0], "logits": logits}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Equation 3: cross-entropy of the turns, averaged over all copies of the global batch."""
        result = classified(embeddings["logits"], targets["turn"])
        return {"loss": result.loss, "rotation_top1": result.top1}

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Copy by copy."""
        losses = [
            -F.log_softmax(logits, dim=0)[turn]
            for of_image, turns in zip(embeddings["logits"], targets["turn"], strict=True)
            for logits, turn in zip(of_image, turns, strict=True)
        ]
        return torch.stack(losses).mean()


def turned(batch: Batch, config: Any) -> Tensor:
    """The copies (images, 4 or 1, 3, s, s) that the network sees."""
    copies = quarter_turns(batch.views["global"][:, 0])
    if config.turns == ALL:
        return copies
    return copies[torch.arange(len(copies), device=copies.device), turns_of(batch, config)[:, 0]][:, None]


def turns_of(batch: Batch, config: Any) -> Tensor:
    """The turn of each copy, int64 (images, 4 or 1)."""
    if config.turns == ALL:
        return torch.arange(QUARTER_TURNS, device=batch.device).expand(len(batch), QUARTER_TURNS)
    return (batch.draws("rotation", 1) * QUARTER_TURNS).long()
