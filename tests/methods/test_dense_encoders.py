"""Methods that learn from maps, with models of timm that have a norm between the map and their features."""

import pytest
import torch

from simclr_dist.data.loading.batches import build_batches
from simclr_dist.data.loading.order import build_order
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.methods.build import build_method
from simclr_dist.models.segmentation import deeplab_v3
from simclr_dist.models.statistics_group import StatisticsGroup, divide_batch_norm
from simclr_dist.models.timm_encoder import TimmEncoder
from simclr_dist.training.gradients import compute_gradients
from simclr_dist.training.method_rules import check_rules
from tests.support.images import open_source
from tests.support.methods import method_config
from tests.support.processes import relative_error, run_distributed

ENCODERS = {
    "convnext_atto": "{depths: [1, 1, 1, 1], dims: [8, 8, 8, 16], ls_init_value: 1.0}",
    "vit_tiny_patch16_224": "{img_size: 32, patch_size: 16, depth: 1, embed_dim: 24, num_heads: 2, class_token: false, "
    "global_pool: avg}",
}
METHODS = ("pixel_contrast", "colorization", "densecl")


def config_of(method, encoder, folder):
    return method_config(
        method, folder, f"recipe.encoder.name=timm/{encoder}", f"recipe.encoder.options={ENCODERS[encoder]}",
        "recipe.data.image_size=32", "recipe.encoder.output_stride=0", "recipe.global_batch_images=8",
        "machine.loader_workers=0",
    )  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("method", METHODS)
def test_the_loss_reaches_all_that_is_trained(method, encoder, tmp_path):
    recipe = config_of(method, encoder, tmp_path).recipe
    statistics = StatisticsGroup()
    made = build_method(recipe, 64, statistics)
    check_rules(made, recipe, statistics, 4)
    frozen = [name for name, each in made.encoder.named_parameters() if not each.requires_grad]
    behind = "head.norm" if encoder == "convnext_atto" else "fc_norm"
    expected = [] if method == "densecl" else [f"backbone.{behind}.weight", f"backbone.{behind}.bias"]
    assert frozen == expected


def _gradients(method, encoder, folder):
    """Of the first step of this process's share, as DDP means them."""
    config = config_of(method, encoder, folder)
    recipe, count, source = config.recipe, process_count(), open_source(config.recipe.data)
    made = build_method(recipe, len(source), divide_batch_norm(0, recipe.global_batch_images, count)).double()
    batch = build_batches(config, source, build_order(recipe, len(source)), process_rank(), count)[0]
    compute_gradients(made, data_parallel(made, torch.device("cpu")), batch)
    return {name: each.grad for name, each in made.named_parameters() if each.grad is not None}


def _of_deeplab(encoder, _folder):
    """Of two steps, before the second of which DDP wants every gradient of the first."""
    torch.manual_seed(0)
    options = {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]}
    network = deeplab_v3(TimmEncoder(encoder, options), 3).double().eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    parallel = data_parallel(network, torch.device("cpu"))
    for _ in range(2):
        network.zero_grad()
        parallel(images.chunk(process_count())[process_rank()]).square().mean().backward()
    return {name: each.grad for name, each in network.named_parameters() if each.grad is not None}


def _of_all(folder):
    found = [_gradients("pixel_contrast", encoder, folder) for encoder in ENCODERS]
    return [*found, _of_deeplab("convnext_atto", folder)]


def test_gradients_on_two_processes_are_those_of_one(tmp_path):
    for process in run_distributed(2, _of_all, tmp_path):
        for found, expected in zip(process, _of_all(tmp_path), strict=True):
            assert found.keys() == expected.keys()
            assert max(relative_error(found[name], expected[name]) for name in expected) < 1e-9
