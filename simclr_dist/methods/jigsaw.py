"""Jigsaw: in which of some permutations the patches of a view were put."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.fields import MOST_CHANNELS, number, one_of
from simclr_dist.losses.classification import classified
from simclr_dist.methods.base import About, Batch, Method, MethodKeys, Metric, Published, Tensors, ViewGroup
from simclr_dist.methods.parts import Parts
from simclr_dist.methods.patches import cut, on_canvas
from simclr_dist.methods.permutations import BY, far_permutations
from simclr_dist.methods.published_views import one_plain
from simclr_dist.random.philox import Purpose, uniforms

_SIDE = 255
_SMALL_PERMUTATIONS, _SMALL_UNITS = 8, 16


class Jigsaw(Method):
    """Noroozi and Favaro 2016 (arXiv 1603.09246), with the numbers of Goyal et al. 2019 (VISSL).

    The view is divided into cells, and a patch is cut out of each at a place that is drawn. Every patch goes through
    the encoder by itself; their embeddings, side by side, tell the permutation. The table of permutations is in the
    checkpoint: without it the answers mean nothing.
    """

    recordable = True
    ABOUT: ClassVar[About | None] = About(
        title="Jigsaw", paper="Noroozi and Favaro 2016", arxiv="1603.09246", keeps=("permutations",),
        published=Published(48.57, epochs=105),
        equation="L = mean over images of -log softmax(W [g(f(x_p(1))), ..., g(f(x_p(9)))] + b)[p]",
    )  # fmt: skip

    @dataclass(kw_only=True)
    class Config(MethodKeys):
        """The keys of jigsaw."""

        permutations: int = number(100, low=2)
        """How many there are to tell apart (VISSL: 100, 2000 and 10000 give 48.57, 46.73 and 48.11 %)."""
        grid: int = number(3, low=2, high=3)
        """Cells in a row and in a column."""
        jitter: float = number(0.247, low=0.0, high=0.5)
        """How far a patch may lie from the corner of its cell, in sides of a cell; the patch has the rest of the cell's
        side (published: 21 and 64 of 85 pixels). Without it, edges that go on from patch to patch tell the answer."""
        distance: str = one_of("mean", BY)
        """Each permutation of the table is the farthest from those before it, by its `mean` Hamming distance to them,
        or by the `minimum`. The first is drawn from recipe.seed."""
        patch_dim: int = number(1000, low=2, high=MOST_CHANNELS)
        """Numbers that a patch is embedded in before all are put side by side."""

    METRICS: ClassVar[Mapping[str, Metric]] = {
        "jigsaw_top1": Metric(
            title="jigsaw top-1", unit="%", role="headline", band=True, from_zero=True,
            text="the permutation of the patches is told; by chance 1 of recipe.method.permutations",
            below="the learning rate, and whether patches show enough (simclr-dist preview)",
            above="recipe.method.jitter and recipe.views.global.grayscale_probability: is there a short-cut?",
        ),
    }  # fmt: skip
    PICTURES: ClassVar[str] = "the input, permuted patches, and the patches in their order, which is the answer"

    def __init__(self, config: Config, make: Parts, images: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = make.encoder()
        self.projection = nn.Sequential(
            nn.Linear(self.encoder.output_dim, config.patch_dim), make.norm(config.patch_dim), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Linear(config.grid**2 * config.patch_dim, config.permutations)
        self.register_buffer("permutations", permutation_table(config, make.recipe.seed))
        self.permutations: Tensor

    @classmethod
    def views(cls, config: MethodKeys) -> dict[str, ViewGroup]:
        """A large crop of 255 pixels, gray in two of three cases."""
        return one_plain(crop_area_min=0.5, size=_SIDE, grayscale_probability=0.66)

    @classmethod
    def check(cls, recipe: Recipe) -> None:
        """Also refuses more permutations than there are."""
        super().check(recipe)
        keys: Any = recipe.method
        if keys.permutations > (most := math.factorial(keys.grid**2)):
            raise ValueError(
                f"recipe.method.permutations: {keys.grid**2} patches have {most} permutations, not "
                f"{keys.permutations}; lower it"
            )

    @classmethod
    def sides(cls, recipe: Recipe) -> list[int]:
        """That of the patches."""
        return [_sides(recipe.views["global"].side(recipe.data.image_size), recipe.method).patch]

    @classmethod
    def small(cls, config: Config, images: int) -> Config:
        """With eight permutations, and patches embedded in 16 numbers."""
        return replace(config, permutations=min(config.permutations, _SMALL_PERMUTATIONS), patch_dim=_SMALL_UNITS)

    @classmethod
    def pictures(cls, recipe: Recipe, batch: Batch) -> Tensor:
        """The patches in the order that the network sees, then in their own."""
        keys: Any = recipe.method
        found = cells_of(batch, keys)
        side, (x, y) = batch.views["global"].shape[-1], _corners(keys.grid, found.cell)
        left, top = (each.expand(len(batch), -1) for each in (x, y))
        table = permutation_table(keys, recipe.seed)
        seen = permuted(found.patches, table[answers_of(batch, len(table))])
        return torch.stack([on_canvas(each, left, top, side) for each in (seen, found.patches)], dim=1)

    def prepare(self, batch: Batch) -> Batch:
        """With the permuted patches, uint8 (images, cells, 3, p, p), in the place of the views."""
        order = self.permutations[answers_of(batch, len(self.permutations))]
        return replace(batch, views={"patches": permuted(cells_of(batch, self.config).patches, order)})

    def targets(self, batch: Batch) -> Tensors:
        """``permutation``: the answers (images,), rows of the table."""
        return {"permutation": answers_of(batch, len(self.permutations))}

    def embed(self, batch: Batch) -> Tensors:
        """``logits`` (images, permutations); ``features`` (images, d) of the patch in the first place, without a
        gradient."""
        patches = batch.views["patches"]
        features = self.encoder(patches.flatten(0, 1))
        embedded = self.projection(features).unflatten(0, patches.shape[:2])
        logits: Tensor = self.classifier(embedded.flatten(1))
        return {"features": features.detach().unflatten(0, patches.shape[:2])[:, 0], "logits": logits}

    def loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensors:
        """Cross-entropy of the permutations, averaged over the global batch."""
        result = classified(embeddings["logits"], targets["permutation"])
        return {"loss": result.loss, "jigsaw_top1": result.top1}

    def reference_loss(self, embeddings: Tensors, targets: Tensors, batch: Batch) -> Tensor:
        """Image by image."""
        pairs = zip(embeddings["logits"], targets["permutation"], strict=True)
        return torch.stack([-F.log_softmax(logits, dim=0)[answer] for logits, answer in pairs]).mean()


class Cells(NamedTuple):
    """A view cut into patches."""

    cell: int
    """Side of a cell, pixels."""
    patches: Tensor
    """uint8 (images, cells, 3, p, p), row by row."""


def permutation_table(config: Any, seed: int) -> Tensor:
    """int64 (permutations, cells): row a says which cell's patch stands in each place when the answer is a."""
    patches = config.grid**2
    (drawn,) = uniforms(seed, Purpose.METHOD, 0, np.zeros(1, dtype=np.int64), 0, 1)[0]
    first = int(drawn * math.factorial(patches))
    # Not from_numpy: a plan, and what takes the encoder alone, build methods without numbers.
    return torch.tensor(far_permutations(patches, config.permutations, first, config.distance).tolist())


def answers_of(batch: Batch, permutations: int) -> Tensor:
    """int64 (images,)."""
    return (batch.draws("jigsaw: permutation", 1)[:, 0] * permutations).long()


def permuted(patches: Tensor, order: Tensor) -> Tensor:
    """Patches (images, cells, ...) in an order int64 (images, cells)."""
    return patches[torch.arange(len(patches), device=patches.device)[:, None], order]


def cells_of(batch: Batch, config: Any) -> Cells:
    """The patches of the views, each at a place that is drawn within its cell."""
    views = batch.views["global"][:, 0]
    cell, jitter, patch = _sides(views.shape[-1], config)
    count = config.grid**2
    place = (batch.draws("jigsaw: places", 2 * count) * (jitter + 1)).long().view(-1, count, 2)
    x, y = (each.to(views.device) for each in _corners(config.grid, cell))
    return Cells(cell, cut(views, x + place[..., 0], y + place[..., 1], patch))


class _Sides(NamedTuple):
    """In pixels."""

    cell: int
    jitter: int
    """How far a patch may lie from the corner of its cell."""
    patch: int


def _sides(view: int, config: Any) -> _Sides:
    """Of a view of such a side."""
    cell = view // config.grid
    jitter = round(config.jitter * cell)
    return _Sides(cell, jitter, cell - jitter)


def _corners(grid: int, cell: int) -> tuple[Tensor, Tensor]:
    """Left and top of the cells, row by row, (cells,) each."""
    steps = cell * torch.arange(grid)
    return steps.repeat(grid), steps.repeat_interleave(grid)
