"""From a recipe to the objects that compute it."""

from functools import partial

import torch

from simclr_dist.config import Recipe
from simclr_dist.methods import SimCLR
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.projection import projection_head
from simclr_dist.models.statistics_group import StatisticsGroup


def build_method(recipe: Recipe, statistics: StatisticsGroup | None = None, recompute: str = "none") -> SimCLR:
    """The method with its initial weights, which depend on recipe.seed alone; on the CPU, in float32.

    ``statistics`` and ``recompute`` are the machine's: how batch-norm groups lie on it, and what it does not keep.
    """
    norm_layer = partial(GroupedBatchNorm, statistics=statistics)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = Encoder(
            recipe.encoder.name,
            width=recipe.encoder.width,
            stem=recipe.encoder.stem,
            zero_init_residual=recipe.encoder.zero_init_residual,
            mean=recipe.data.mean,
            std=recipe.data.std,
            norm_layer=norm_layer,
            recompute=recompute,
        )
        projection = projection_head(
            encoder.output_dim,
            layers=recipe.projection.layers,
            hidden_dim=recipe.projection.hidden_dim,
            output_dim=recipe.projection.output_dim,
            batch_norm=recipe.projection.batch_norm,
            norm_layer=norm_layer,
        )
    return SimCLR(encoder, projection, temperature=recipe.loss.temperature, loss_scale=recipe.loss.scale)
