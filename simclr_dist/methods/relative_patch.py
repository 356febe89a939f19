"""Relative patch: on which of eight sides of a patch another one lies."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number, one_of
from simclr_dist.losses.classification import classified
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.patches import (
    COLOR_SHORTCUTS,
    Neighbourhood,
    cut,
    moved,
    on_canvas,
    without_color_shortcut,
)
from simclr_dist.methods.published_views import one_plain

OFFSETS = ((-1, -1), (0, -1), (1, -1), (-1, 0), (1, 0), (-1, 1), (0, 1), (1, 1))
"""Answer -> where the second patch lies from the first, to the right and down. Seen from the second, the first has the
answer 7 - this one."""
_SIDE = 398  # three patches of 96 pixels, two gaps of 48, and 7 pixels to move at both ends


class RelativePatch(Method):
    """Doersch et al. 2015 (arXiv 1505.05192), with the colours of its published code, deepcontext's train.py.

    A view holds nine patches in three rows; the middle one and some of its neighbours are cut out. Each pair is asked
    about in both orders. The published code also makes a third of the patches coarser, which is not done here.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="Relative patch", paper="Doersch et al. 2015", arxiv="1505.05192",
        equation=(
            "L = mean over pairs (p, q) in both orders of -log softmax(h[f(p), f(q)])[a]        q on side a of p"
        ),
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of relative patch."""

        neighbours: int = number(1, low=1, high=8)
        """How many of the eight neighbours of the middle patch are cut out, drawn without repetition (published: all
        pairs of a grid are asked about, so 8). 1 needs two patches of a view, 8 nine."""
        gap: float = number(0.5, low=0.0, high=4.0)
        """Between two patches, in sides of a patch (published: 48 of 96 pixels). Without it, lines that go on from one
        patch into the other tell the answer. The patches are the largest that fit into the view."""
        jitter: float = number(0.073, low=0.0, high=1.0)
        """How far each patch is moved, at most, along each axis, in sides of a patch (published: 7 of 96 pixels)."""
        color_shortcut: str = one_of("drop", COLOR_SHORTCUTS)
        """Chromatic aberration of the lens tells where in the photograph a patch was. `drop`: of each patch one colour
        channel is kept and the others are noise (the published code); `project`: colours lose their part along the
        axis from green to magenta (the paper's other way); `none`: it is left in."""
        hidden_dim: int = number(4096, low=2, high=MOST_CHANNELS)
        """Units of each of the two hidden layers of the classifier, which sees the features of both patches."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "relative_patch_top1": Metric(
            title="relative patch top-1", unit="%", role="headline", band=True, from_zero=True,
            text="the side of the first patch on which the second lies is told; by chance 12.5 %",
            below="the learning rate, and whether a patch shows enough (simclr-dist preview)",
            above="recipe.method.gap and recipe.method.color_shortcut: is there a short-cut?",
        ),
    }  # fmt: skip
    PICTURES: ClassVar[str] = "two patches, the input, and where they were, the answer"

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        hidden = config.hidden_dim
        self.classifier = make.mlp((2 * self.encoder.output_dim, hidden, hidden, len(OFFSETS)), bias=True, norm=True)

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """A large crop in its own colours, for nine patches of 96 pixels."""
        return one_plain(crop_area_min=0.35, size=_SIDE)

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Also refuses views too small for three patches in a row."""
        super().check(recipe)
        keys: Any = recipe.method
        try:
            Neighbourhood.of(recipe.views["global"].side(recipe.data.image_size), keys.gap, keys.jitter)
        except ValueError as error:
            raise ValueError(f"recipe.views.global.size: {error}; raise it, or lower recipe.method.gap") from None

    @classmethod
    def sides(cls, recipe: Recipe) -> list[int]:
        """That of the patches."""
        keys: Any = recipe.method
        return [Neighbourhood.of(recipe.views["global"].side(recipe.data.image_size), keys.gap, keys.jitter).patch]

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With a classifier of 32 units in each layer."""
        return replace(config, hidden_dim=32)

    @classmethod
    def pictures(cls, recipe: Recipe, batch: Batch) -> Tensor:
        """The middle patch and its first neighbour side by side, as the network sees them; both where they were."""
        keys: Any = recipe.method
        places, view = places_of(batch, keys), batch.views["global"][:, 0]
        side, patch, left, top = view.shape[-1], places.patch, places.left[:, :2], places.top[:, :2]
        mean = 255 * torch.tensor(recipe.data.mean)
        seen = without_color_shortcut(cut(view, left, top, patch), keys.color_shortcut, places.colors[:, :2], mean)
        middle = torch.full_like(left, (side - patch) // 2)
        beside = torch.tensor([0, side - patch]).expand_as(left)
        there = on_canvas(cut(view, left, top, patch), left, top, side)
        return torch.stack([on_canvas(seen, beside, middle, side), there], dim=1)

    def prepare(self, batch: Batch) -> Batch:
        """With the patches, float32 (images, 1 + neighbours, 3, p, p), in the place of the views; the middle one is the
        first."""
        places = places_of(batch, self.config)
        patches = cut(batch.views["global"][:, 0], places.left, places.top, places.patch)
        seen = without_color_shortcut(
            patches, self.config.color_shortcut, places.colors, 255 * self.encoder.mean.flatten()
        )
        return replace(batch, views={"patches": seen})

    def targets(self, batch: Batch) -> Tensors:
        """``side``: the answers (images, neighbours, 2), from the middle patch to the neighbour and back."""
        there = answers_of(batch, self.config.neighbours)
        return {"side": torch.stack([there, len(OFFSETS) - 1 - there], dim=2)}

    def embed(self, batch: Batch) -> Tensors:
        """``logits`` (images, neighbours, 2, 8); ``features`` (images, d) of the middle patch, without a gradient."""
        patches = batch.views["patches"]
        features = self.encoder(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        neighbours = features[:, 1:]
        middle = features[:, :1].expand_as(neighbours)
        pairs = torch.stack([torch.cat([middle, neighbours], 2), torch.cat([neighbours, middle], 2)], dim=2)
        logits: Tensor = self.classifier(pairs.flatten(0, 2)).unflatten(0, pairs.shape[:3])
        return {"features": features[:, 0].detach(), "logits": logits}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Cross-entropy of the sides, averaged over all pairs of the global batch in both orders."""
        result = classified(embeddings["logits"], targets["side"])
        return {"loss": result.loss, "relative_patch_top1": result.top1}

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Pair by pair; the way back is the opposite of the way there."""
        losses = []
        for logits, answers in zip(embeddings["logits"], targets["side"], strict=True):
            for pair, answer in zip(logits, answers[:, 0].tolist(), strict=True):
                x, y = OFFSETS[answer]
                for of_order, side in zip(pair, (answer, OFFSETS.index((-x, -y))), strict=True):
                    losses.append(-F.log_softmax(of_order, dim=0)[side])
        return torch.stack(losses).mean()


class Places(NamedTuple):
    """Of the middle patch and its drawn neighbours."""

    patch: int
    """Side, pixels."""
    left: Tensor
    """Of the corners in the view, int64 (images, 1 + neighbours)."""
    top: Tensor
    colors: Tensor
    """What is drawn for the patches' colours, (images, 1 + neighbours, 2)."""


def answers_of(batch: Batch, neighbours: int) -> Tensor:
    """On which side of the middle patch the drawn neighbours lie, int64 (images, neighbours)."""
    return batch.draws("relative patch: sides", len(OFFSETS)).argsort(dim=1, stable=True)[:, :neighbours]


def places_of(batch: Batch, config: Any) -> Places:
    """Where the patches lie: the nine are moved together in the room that is left, then each by itself."""
    side = batch.views["global"].shape[-1]
    grid = Neighbourhood.of(side, config.gap, config.jitter)
    count, images = 1 + config.neighbours, len(batch)
    u = batch.draws("relative patch: places", 2 + 4 * count)
    offsets = torch.tensor(OFFSETS, device=batch.device)[answers_of(batch, config.neighbours)]
    offsets = torch.cat([offsets.new_zeros(images, 1, 2), offsets], dim=1)
    start = (u[:, :2] * (side - grid.side + 1)).long()[:, None] + grid.jitter
    own = u[:, 2:].view(images, count, 4)
    corners = start + (1 + offsets) * (grid.patch + grid.gap) + moved(own[..., :2], grid.jitter)
    return Places(grid.patch, corners[..., 0], corners[..., 1], own[..., 2:])
