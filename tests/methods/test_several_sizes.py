"""Views of several sizes go through the norms in several calls: their running statistics know no chunks."""

import pytest
import torch

from simclr_dist.config import Recipe
from simclr_dist.data.loading.batch import Batch
from simclr_dist.methods.base import Method
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import norms_of
from simclr_dist.models.statistics_group import StatisticsGroup
from simclr_dist.training.gradients import compute_gradients
from tests.support.processes import relative_error, tiny_config
from tests.support.toy_methods import Toy, name_of

IMAGES, GROUP = 24, 4


def batch() -> Batch:
    """Small views brighter than large ones, and later images than earlier ones, so that no order is like another."""
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randint(0, 60, (IMAGES, n, 3, s, s), generator=generator) for n, s in ((1, 12), (2, 8))]
    brighter = 4 * torch.arange(IMAGES).view(-1, 1, 1, 1, 1)
    views = {"large": noise[0] + brighter, "small": noise[1] + brighter + 60}
    samples = torch.arange(IMAGES)
    return Batch(
        views={name: each.to(torch.uint8) for name, each in views.items()},
        samples=samples, epoch=0, seed=0, labels=samples % 3,
    )  # fmt: skip


def after(recipe: Recipe, chunk_images: int) -> Method:
    """The method after three forward and backward passes of the batch."""
    method = build_method(recipe, IMAGES, StatisticsGroup((chunk_images or IMAGES) // GROUP)).double()
    for _ in range(3):
        method.zero_grad()
        compute_gradients(method, method, batch(), chunk_images=chunk_images)
    return method


@pytest.mark.parametrize("chunk_images", [4, 8, 12])
def test_running_statistics_and_gradients_are_those_of_the_whole_whatever_the_chunks(tmp_path, chunk_images):
    recipe = tiny_config(
        tmp_path, f"recipe.method.name={name_of(Toy)}", "recipe.encoder.zero_init_residual=false"
    ).recipe
    whole, chunks = after(recipe, 0), after(recipe, chunk_images)
    for one, other in zip(norms_of(chunks), norms_of(whole), strict=True):
        assert int(one.num_batches_tracked) == int(other.num_batches_tracked) == 3 * 2  # two sizes, two calls
        assert relative_error(one.running_mean, other.running_mean) < 1e-10
        assert relative_error(one.running_var, other.running_var) < 1e-10
    for (name, one), (_, other) in zip(chunks.named_parameters(), whole.named_parameters(), strict=True):
        assert relative_error(one.grad, other.grad) < 1e-9, name
