"""What a method is made of: the recipe's encoder, heads with the recipe's batch norm, seeded starts."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_dist.config import Recipe
from simclr_dist.config.recipe import Encoder as EncoderKeys
from simclr_dist.config.registry import load, method_class
from simclr_dist.data.loading.batch import Batch
from simclr_dist.errors import UserError
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.projection import Projection, projection_head
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.models.timm_encoder import TimmEncoder


def each_view(batch: Batch, *networks: nn.Module) -> list[Tensor]:
    """Of the views ``first`` and ``second``, in a pass of its own each, what the networks one after another make:
    (images, d) and (images, d)."""
    found = []
    for name in ("first", "second"):
        rows = batch.views[name].flatten(0, 1)
        for network in networks:
            rows = network(rows)
        found.append(rows)
    return found


class Parts:
    """Makes the parts of one method, in the order of its calls: their initial weights depend on the seed and on it.

    ``statistics`` and ``recompute`` are the machine's: how batch-norm groups lie on it, and what it does not keep.
    """

    def __init__(self, recipe: Recipe, statistics: StatisticsGroup | None = None, recompute: str = "none") -> None:
        self.recipe, self.statistics, self.recompute = recipe, statistics, recompute

    def encoder(self) -> Encoder:
        """A new encoder of the recipe: uint8 images (rows, 3, height, width) to features (rows, output_dim).

        Raises:
            UserError: recipe.encoder.name stands for nothing that can be imported, or for no class of encoders.
            ValueError: what it makes is no encoder.
        """
        keys, data = self.recipe.encoder, self.recipe.data
        takes = method_class(self.recipe.method.name).TAKES
        if ":" in keys.name:
            return Encoder.of(self._outside(keys), data.mean, data.std, takes)
        if keys.of_timm:
            return TimmEncoder(
                keys.of_timm, keys.options, frozen=keys.frozen, mean=data.mean, std=data.std,
                statistics=self.statistics, recompute=self.recompute, takes=takes,
            )  # fmt: skip
        return Encoder(
            keys.name,
            width=keys.width,
            stem=keys.stem,
            zero_init_residual=keys.zero_init_residual,
            mean=data.mean,
            std=data.std,
            norm_layer=self.norm,
            recompute=self.recompute,
            output_stride=keys.output_stride,
            takes=takes,
        )

    def _outside(self, keys: EncoderKeys) -> nn.Module:
        make = load("recipe.encoder.name", keys.name, {})
        # A stored recipe names it too: nothing but a network is called because a file says so.
        if not (isinstance(make, type) and issubclass(make, nn.Module)):
            raise UserError(f"recipe.encoder.name: '{keys.name}' is no encoder: it must be a class of torch.nn.Module")
        return make(keys, norm_layer=self.norm)

    def norm(self, features: int, **options: Any) -> GroupedBatchNorm:
        """Batch norm over the recipe's groups of images, in place of torch's."""
        return GroupedBatchNorm(features, statistics=self.statistics, **options)

    def projection(self, input_dim: int, keys: Projection) -> nn.Sequential:
        """A projection head as SimCLR's code has it, of features (rows, input_dim)."""
        return projection_head(
            input_dim,
            layers=keys.layers,
            hidden_dim=keys.hidden_dim,
            output_dim=keys.output_dim,
            batch_norm=keys.batch_norm,
            norm_layer=self.norm,
        )

    def mlp(
        self, sizes: Sequence[int], *, bias: bool, norm: bool, last_norm: bool = False, gelu: bool = False
    ) -> nn.Sequential:
        """Linear layers of torch's own initial weights, from sizes[0] to sizes[-1] features, with ReLU between.

        Args:
            sizes: features in, between and out.
            bias: of the linear layers.
            norm: the recipe's batch norm after all layers but the last.
            last_norm: and after that, without gain and offset.
            gelu: GELU in the place of ReLU.
        """
        layers = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(sizes), 1):
            last = number == len(sizes) - 1
            layers.add_module(f"linear_{number}", nn.Linear(before, after, bias=bias))
            if last_norm if last else norm:
                layers.add_module(f"norm_{number}", self.norm(after, affine=not last))
            if not last:
                name, activation = ("gelu", nn.GELU()) if gelu else ("relu", nn.ReLU(inplace=True))
                layers.add_module(f"{name}_{number}", activation)
        return layers

    def unit_rows(self, rows: int, dim: int) -> Tensor:
        """Random rows of unit length, (rows, dim): how queues and banks begin."""
        return F.normalize(torch.randn(rows, dim), dim=1)
