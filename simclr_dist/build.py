"""From a recipe to the objects that compute it."""

from functools import partial

import torch

from simclr_dist.config import Config, Recipe
from simclr_dist.data.loader import ViewBatches
from simclr_dist.data.order import SampleOrder
from simclr_dist.data.renderers import RENDERERS
from simclr_dist.data.sources import ImageSource
from simclr_dist.errors import UserError
from simclr_dist.methods import SimCLR
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.encoder import Encoder
from simclr_dist.models.projection import projection_head
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.optim.schedule import Schedule, peak_learning_rate


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


def build_order(recipe: Recipe, images: int) -> SampleOrder:
    """The order of the images.

    Raises:
        UserError: there are fewer images than a global batch.
    """
    if images < recipe.global_batch_images:
        raise UserError(
            f"recipe.global_batch_images: {recipe.global_batch_images} is more than the data set's {images} images; "
            f"lower it to {images} or less"
        )
    return SampleOrder(seed=recipe.seed, images=images, global_batch_images=recipe.global_batch_images)


def build_batches(
    config: Config, source: ImageSource, order: SampleOrder, rank: int = 0, processes: int = 1
) -> ViewBatches:
    """One process's share of every global batch, rendered as the machine says."""
    return ViewBatches(
        source,
        config.recipe,
        order,
        rank,
        processes,
        RENDERERS[config.machine.renderer],
        colors=not config.machine.views_on_device,
    )


def build_schedule(recipe: Recipe, order: SampleOrder) -> Schedule:
    """The learning rate of every step of the run."""
    rate = recipe.optimizer
    return Schedule(
        peak=peak_learning_rate(rate.base_learning_rate, rate.learning_rate_scaling, recipe.global_batch_images),
        warmup_steps=round(recipe.warmup_epochs * order.steps_per_epoch),
        total_steps=recipe.epochs * order.steps_per_epoch,
    )
