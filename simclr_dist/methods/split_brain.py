"""Split-brain: one half of the network tells colours from the lightness, the other the lightness from colours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number
from simclr_dist.config.recipe import widened
from simclr_dist.distributed.global_batch import global_batch
from simclr_dist.losses.color_bins import (
    LIGHTNESSES,
    bin_centres,
    colors_of_cells,
    is_colored,
    lightness_classes,
    soft_encoding,
)
from simclr_dist.methods.base import About, Batch, MethodKeys, Metric, Tensors
from simclr_dist.methods.color_task import COLOR_METRICS, ColorTask, over_colored
from simclr_dist.methods.parts import Parts
from simclr_dist.models.encoder import HALVES


class SplitBrain(ColorTask):
    """Zhang, Isola and Efros 2017 (arXiv 1611.09842): two networks of half the width, each of a part of the image.

    The encoder is both, and its features are those of one beside those of the other.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="Split-brain", paper="Zhang et al. 2017", arxiv="1611.09842",
        equation=(
            "L = mean over images and cells h of -log softmax(f(L))[h, c(ab_h)] - log softmax(g(ab))[h, c(L_h)]\n"
            "c(ab): the nearest of 313 colours;   c(L): the lightness, in 100 classes"
        ),
    )  # fmt: skip

    TAKES: ClassVar[str] = HALVES
    PICTURES: ClassVar[str] = "what each half sees and the other tells, the lightness and the colours; and the view"

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of split-brain."""

        hidden_dim: int = number(256, low=1, high=MOST_CHANNELS)
        """Channels between each half's map and the classes."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        **COLOR_METRICS,
        "lightness_top1": Metric(
            title="lightness top-1", unit="%", from_zero=True,
            text="the likeliest of 100 lightnesses is that of the place, in images with colour",
        ),
    }  # fmt: skip

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__(config, make, images)
        halves = (self.encoder.backbone.lightness, self.encoder.backbone.color)
        self.dims = [half.output_dim for half in halves]
        self.color_classifier, self.lightness_classifier = (
            make.mlp((dim, config.hidden_dim, classes), bias=True, norm=True)
            for dim, classes in zip(self.dims, (len(bin_centres()), LIGHTNESSES), strict=True)
        )

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Also refuses a width that leaves the halves a layer without channels."""
        super().check(recipe)
        if recipe.encoder.is_resnet:
            try:
                widened(64, recipe.encoder.width / 2)
            except ValueError:
                raise ValueError(
                    f"recipe.encoder.width: {recipe.encoder.width:g} leaves split_brain's halves, each of half the "
                    "width, a layer without channels; raise it"
                ) from None

    def targets(self, batch: Batch) -> Tensors:
        """``color`` and ``lightness``, classes int64 (images, cells); ``colored`` (images,), 1 or 0."""
        lab, side = self.lab(batch), (self.map_side, self.map_side)
        colors = colors_of_cells(lab, side)
        return {
            "color": soft_encoding(colors, bin_centres().to(colors), neighbours=1).bins[..., 0],
            "lightness": lightness_classes(lab, side), "colored": is_colored(lab).to(colors.dtype),
        }  # fmt: skip

    def embed(self, batch: Batch) -> Tensors:
        """Logits ``color`` (images, cells, 313), of the lightness, and ``lightness`` (images, cells, 100), of the
        colours; ``features`` (images, d), without a gradient."""
        maps = self.encoder.map(batch.views["global"][:, 0])
        of_lightness, of_color = maps.flatten(2).transpose(1, 2).split(self.dims, dim=-1)
        found = {
            "color": self.color_classifier(of_lightness.flatten(0, 1)),
            "lightness": self.lightness_classifier(of_color.flatten(0, 1)),
        }
        logits = {name: rows.unflatten(0, of_color.shape[:2]) for name, rows in found.items()}
        return {"features": self.encoder.pool(maps.detach()), **logits}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """The sum of both halves' cross-entropies (section 3.1), the mean over the cells of the global batch."""
        losses, right = [], []
        for name in ("color", "lightness"):
            logits, answers = embeddings[name], targets[name]
            cells = F.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="none")
            losses.append(cells.view(answers.shape).mean(1))
            right.append(logits.argmax(-1) == answers)
        color, lightness, colored = over_colored(targets["colored"], *right)
        return {
            "loss": global_batch(torch.stack(losses, dim=1), "losses").sum(1).mean(), "color_top1": color,
            "lightness_top1": lightness, "colored_images": colored,
        }  # fmt: skip

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Cell by cell."""
        losses = [
            -logits.softmax(0).log()[answer]
            for name in ("color", "lightness")
            for logits, answer in zip(embeddings[name].flatten(0, 1), targets[name].flatten(), strict=True)
        ]
        return 2 * torch.stack(losses).mean()
