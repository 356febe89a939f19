"""Chunks and recomputation: less memory, the same gradients and running statistics."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from simclr_dist.distributed.collectives import process_count, process_rank
from simclr_dist.distributed.data_parallel import data_parallel
from simclr_dist.methods.build import build_method
from simclr_dist.methods.simclr import SimCLR
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.projection import projection_head
from simclr_dist.models.statistics_group import divide_batch_norm
from simclr_dist.training.gradients import compute_gradients
from tests.support.processes import assert_bit_equal, final_state, losses, pretrain_here, run_distributed, tiny_config
from tests.support.simclr import batch_of, simclr_of
from tests.support.toy_methods import StopsGradients, name_of

IMAGES = 32


class Convolutions(nn.Module):
    """A small encoder with the layers whose exactness under chunks is in question."""

    output_dim = 8 * 16

    def __init__(self, kind: str, chunk: int) -> None:
        super().__init__()
        norm = nn.GroupNorm(2, 8)
        if kind == "grouped batch norm":
            norm = GroupedBatchNorm(8, statistics=divide_batch_norm(4, IMAGES, process_count(), chunk_images=chunk))
        drop = nn.Dropout(0.3 if kind == "dropout" else 0.0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), norm, nn.ReLU(inplace=True), drop, nn.Conv2d(8, 8, 3), nn.ReLU(), drop, nn.Flatten()
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.double() / 127.5 - 1)


def build(kind: str, chunk: int) -> SimCLR:
    torch.manual_seed(0)
    method = simclr_of(
        Convolutions(kind, chunk), projection_head(8 * 16, output_dim=16, batch_norm=False), temperature=0.2
    )
    with torch.no_grad():
        for parameter in method.projection.parameters():
            parameter.mul_(10)
    return method.double()


def _chunked_and_one_graph(kind: str, chunk: int) -> tuple[float, float, float]:
    count, rank = process_count(), process_rank()
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(0, 256, (IMAGES, 2, 3, 8, 8), generator=generator, dtype=torch.uint8).chunk(count)[rank]
    reference, chunked = build(kind, chunk), build(kind, chunk)

    torch.manual_seed(rank)  # what dropout draws
    one_graph = torch.cat([reference.embed(part)["z"] for part in batch_of(views).split(chunk)])
    reference.loss({"z": one_graph}, {}, batch_of(views))["loss"].backward()

    torch.manual_seed(rank)
    parallel = data_parallel(chunked, torch.device("cpu"))
    compute_gradients(chunked, parallel, batch_of(views), chunk_images=chunk)

    expected = torch.cat([parameter.grad.flatten() for parameter in reference.parameters()])
    if count > 1:
        torch.distributed.all_reduce(expected)
        expected /= count
    got = torch.cat([parameter.grad.flatten() for parameter in chunked.parameters()])
    error = float((got - expected).norm() / expected.norm())
    # Running statistics move once, by the mean over the groups of all chunks.
    statistics, moved = 0.0, 0.0
    for norm in (module for module in chunked.modules() if isinstance(module, GroupedBatchNorm)):
        pixels = nn.functional.conv2d(views.flatten(0, 1).double() / 127.5 - 1, *chunked.encoder.layers[0].parameters())
        groups = pixels.unflatten(0, (-1, 8))  # groups of 4 images, two views each
        mean = 0.1 * groups.mean((0, 1, 3, 4))
        variance = 0.9 + 0.1 * groups.transpose(1, 2).flatten(2).var(2).mean(0)
        statistics = float(torch.cat((norm.running_mean - mean, norm.running_var - variance)).abs().max())
        moved = float(norm.num_batches_tracked)
    return error, statistics, moved


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("kind", ["group norm", "grouped batch norm", "dropout"])
def test_chunks_give_the_gradients_of_one_graph_and_move_statistics_once(kind, count):
    for error, statistics, moved in run_distributed(count, _chunked_and_one_graph, kind, 4):
        assert error < 1e-12
        assert statistics < 1e-12
        assert moved == (1 if kind == "grouped batch norm" else 0)


def test_runs_with_chunks_of_any_size_follow_the_run_without(tmp_path):
    walks = {}
    for count, chunk in itertools.product((1, 2), (0, 8, 16)):
        config = tiny_config(
            tmp_path,
            f"machine.run_dir={tmp_path / f'{count}-{chunk}'}",
            f"machine.images_per_chunk={chunk}",
            "machine.precision=float64",
            "machine.stop_after_steps=4",
            "recipe.batch_norm_group_images=8",
            "recipe.encoder.width=0.125",
        )
        run_distributed(count, pretrain_here, config)
        walks[count, chunk] = losses(config.machine.run_dir)
        model = final_state(config.machine.run_dir)["model"]
        assert model["encoder.backbone.bn1.num_batches_tracked"] == 4
        assert torch.allclose(
            model["encoder.backbone.layer4.0.bn2.running_var"],
            final_state(tmp_path / "1-0")["model"]["encoder.backbone.layer4.0.bn2.running_var"],
            rtol=1e-9,
        )
    for walk in walks.values():
        assert walk == pytest.approx(walks[1, 0], rel=1e-10)


def test_what_a_method_detaches_in_embed_gets_no_gradient_from_chunks_either(tmp_path):
    walks = []
    for chunk in (0, 8):
        config = tiny_config(
            tmp_path, f"recipe.method.name={name_of(StopsGradients)}", f"machine.run_dir={tmp_path / str(chunk)}",
            f"machine.images_per_chunk={chunk}", "machine.precision=float64", "machine.stop_after_steps=3",
            "recipe.batch_norm_group_images=8",
        )  # fmt: skip
        pretrain_here(config)
        walks.append(losses(config.machine.run_dir))
    assert walks[1] == pytest.approx(walks[0], rel=1e-10)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("recompute", ["blocks", "all"])
def test_recomputing_activations_leaves_the_trajectory_equal_to_the_bit(tmp_path, recompute, count):
    for name in ("none", recompute):
        config = tiny_config(
            tmp_path, f"machine.run_dir={tmp_path / name}", f"machine.recompute={name}", "machine.stop_after_steps=4"
        )
        run_distributed(count, pretrain_here, config)
    assert losses(tmp_path / recompute) == losses(tmp_path / "none")
    assert_bit_equal(final_state(tmp_path / recompute)["model"], final_state(tmp_path / "none")["model"])


def test_recomputing_keeps_fewer_activations(tmp_path):
    kept = {}
    for recompute in ("none", "blocks", "all"):
        method = build_method(tiny_config(tmp_path).recipe, images=8, recompute=recompute)
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            method(batch_of(torch.zeros(8, 2, 3, 16, 16, dtype=torch.uint8)))
        kept[recompute] = total
    assert kept["all"] < kept["blocks"] < 0.7 * kept["none"]
