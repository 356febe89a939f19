"""Models of timm: gradients on any number of processes and chunks, with all that they drop by chance, and resuming."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from simclr_dist.config import Config
from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.methods.build import build_method
from simclr_dist.models.batch_norm import average_running_statistics, norms_of
from simclr_dist.models.drops import drops_of
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.training.gradients import compute_gradients
from tests.support.processes import assert_bit_equal, relative_error, run_distributed
from tests.support.steps import noise_batch, training_step
from tests.support.timm_families import FAMILIES, family_config

IMAGES = 8
GROUP = 2  # of batch norm, and of a chunk: two chunks in each of two processes
ON_FOUR = ("ResNet", "ViT", "Swin")
"""On 4 processes too: what these replace and drop, the others do. A family says nothing of processes that another could
say differently; each of four imports timm anew."""
SLOW = "VGG"  # its widths cannot be changed, and it drops nothing


def gradients_of(config: Config, group: int, chunk: int, recompute: str, rate: float | None = None) -> Tensor:
    """Of all parameters, then the running statistics, from this process's share of the batch."""
    count, rank = process_count(), process_rank()
    statistics = divide_batch_norm(group, IMAGES, count, chunk_images=chunk)
    method = build_method(config.recipe, IMAGES, statistics, recompute).double()
    if rate == 0:
        for drops in drops_of(method):
            drops.call = lambda rows: nullcontext()
    batch = noise_batch(config, seed=1).split(IMAGES // count)[rank]
    compute_gradients(method, data_parallel(method, torch.device("cpu")), batch, chunk_images=chunk)
    average_running_statistics(method)
    buffers = [each for norm in norms_of(method) for each in (norm.running_mean, norm.running_var)]
    return torch.cat([each.flatten() for each in ([p.grad for p in method.parameters()] + buffers)])


def both_ways(configs: dict[str, Config]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each family, in chunks of a batch-norm group each, and whole with what timm recomputes."""
    return {
        family: (
            gradients_of(config, GROUP, GROUP, "none"),
            gradients_of(config, 0, 0, "blocks" if FAMILIES[family].recomputes else "none"),
        )
        for family, config in configs.items()
    }


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    images = f"recipe.global_batch_images={IMAGES}"
    return {family: family_config(family, tmp_path_factory.mktemp(family), images) for family in FAMILIES}


@pytest.fixture(scope="module")
def found(configs):
    """Number of processes -> family -> what its first process has computed."""
    few = {family: configs[family] for family in ON_FOUR}
    of_several = {2: run_distributed(2, both_ways, configs)[0], 4: run_distributed(4, both_ways, few)[0]}
    return {1: both_ways(configs)} | of_several


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_and_statistics_are_those_of_one_whole_process_on_several_and_in_chunks(configs, found, family):
    whole = gradients_of(configs[family], GROUP, 0, "none"), gradients_of(configs[family], 0, 0, "none")
    assert [count for count, by_family in found.items() if family in by_family] == [1, 2, *[4] * (family in ON_FOUR)]
    for count, by_family in found.items():
        if family not in by_family:
            continue
        for way, got, expected in zip(("chunks", "recomputed"), by_family[family], whole, strict=True):
            assert relative_error(got, expected) < 1e-10, (count, way)
    if drops_of(build_method(configs[family].recipe, IMAGES)):  # two equal numbers of a network that drops nothing
        assert relative_error(gradients_of(configs[family], 0, 0, "none", rate=0), whole[1]) > 1e-3


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != SLOW])
def test_a_step_after_resuming_is_to_the_bit_that_of_a_run_that_was_not_stopped(configs, family):
    states = []
    for stops in (False, True):
        step = training_step(configs[family], 4 * IMAGES)
        step(noise_batch(configs[family], seed=0), 0)
        if stops:
            saved = {name: part.state_dict() for name, part in step.state.items()}
            torch.rand(7)  # of a generator that another process would have elsewhere
            step = training_step(configs[family], 4 * IMAGES, parallel=False)
            for name, part in step.state.items():
                part.load_state_dict(saved[name])
            step.make_parallel()
        step(noise_batch(configs[family], seed=1), 1)
        states.append({name: part.state_dict() for name, part in step.state.items()})
    assert_bit_equal(*states)
