"""The loss, its gradient with the scale included, its numerics and its metrics."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from simclr_dist.config import load_config
from simclr_dist.errors import UserError
from simclr_dist.losses import NTXentLoss, nt_xent, tiles
from tests.support.losses import plain_nt_xent
from tests.support.processes import relative_error, run_distributed

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "google_simclr.json").read_text())["nt_xent"]


def embeddings(images: int, dim: int, kind: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z_1 = torch.randn(images, dim, generator=generator, dtype=torch.float64)
    z_2 = torch.randn(images, dim, generator=generator, dtype=torch.float64)
    if kind == "well separated":
        z_1 = torch.nn.functional.one_hot(torch.arange(images), dim).double() + 0.01 * z_1
        z_2 = z_1 + 0.01 * z_2
    if kind == "collapsed":
        z_1, z_2 = 1 + 1e-2 * z_1, 1 + 1e-2 * z_2
    return z_1.to(dtype), z_2.to(dtype)


def gradients(loss: Tensor, *tensors: Tensor) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, tensors)])


@pytest.mark.parametrize("case", GOLDEN, ids=[f"{case['images']}x{case['dim']}" for case in GOLDEN])
def test_twice_the_loss_and_its_gradient_are_those_of_googles_code(case):
    hidden = torch.tensor(case["hidden"], dtype=torch.float32, requires_grad=True)
    z_1, z_2 = hidden.chunk(2)
    loss = 2 * nt_xent(z_1, z_2, case["temperature"]).loss
    assert loss.item() == pytest.approx(case["google_loss"], rel=5e-6)
    assert relative_error(*torch.autograd.grad(loss, hidden), torch.tensor(case["google_gradient"])) < 2e-5


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.05])
def test_loss_and_gradient_are_those_of_the_definition_in_float64(temperature):
    z = [tensor.requires_grad_() for tensor in embeddings(24, 16, "random")]
    loss, reference = nt_xent(*z, temperature).loss, plain_nt_xent(*z, temperature)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    assert relative_error(gradients(loss, *z), gradients(reference, *z)) < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1, 0.05, 0.02])
@pytest.mark.parametrize("kind", ["random", "well separated", "collapsed"])
def test_float32_gradient_stays_close_to_float64(kind, temperature):
    # The same float32 numbers in both, so that only the loss's own rounding counts; rows are unit length already,
    # since the rounding of the normalisation is not the loss's.
    rows = [F.normalize(tensor, dim=1).requires_grad_() for tensor in embeddings(64, 96, kind, torch.float32)]
    doubles = [tensor.detach().double().requires_grad_() for tensor in rows]
    value = gradients(nt_xent(*rows, temperature).loss, *rows)
    reference = gradients(nt_xent(*doubles, temperature).loss, *doubles)
    assert relative_error(value, reference) < 1e-5


def test_nothing_overflows_at_a_tiny_temperature():
    for kind in ("random", "well separated", "collapsed"):
        z = [tensor.requires_grad_() for tensor in embeddings(16, 32, kind, torch.float32)]
        loss = nt_xent(*z, 0.005).loss
        assert torch.isfinite(loss)
        assert torch.isfinite(gradients(loss, *z)).all()


def test_at_the_lowest_temperature_of_a_recipe_loss_and_gradient_are_those_of_the_definition():
    z = [tensor.requires_grad_() for tensor in embeddings(24, 16, "random")]
    loss, reference = nt_xent(*z, 0.002).loss, plain_nt_xent(*z, 0.002)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-12)
    assert relative_error(gradients(loss, *z), gradients(reference, *z)) < 1e-9


@pytest.mark.parametrize("temperature", [0.001, 0.0, -1.0, float("nan")])
def test_a_temperature_at_which_float64_overflows_is_refused_by_function_class_and_recipe(temperature):
    with pytest.raises(ValueError, match="temperature must be at least 1/700"):
        nt_xent(*embeddings(4, 8, "random"), temperature)
    with pytest.raises(ValueError, match="temperature must be at least 1/700"):
        NTXentLoss(temperature)
    with pytest.raises(UserError, match=r"recipe\.method\.temperature"):
        load_config("digits_demo", [f"recipe.method.temperature={temperature}"])


@pytest.mark.parametrize("tile", [5, 7, 16, 24, 47])
def test_tiles_of_any_size_give_the_same_loss_gradient_and_ranks(monkeypatch, tile):
    z = [tensor.requires_grad_() for tensor in embeddings(24, 16, "random")]
    whole = nt_xent(*z, 0.1)
    expected = gradients(whole.loss, *z)
    monkeypatch.setattr(tiles, "_CPU_TILE", tile)
    tiled = nt_xent(*z, 0.1)
    assert tiled.loss.item() == pytest.approx(whole.loss.item(), rel=1e-13)
    assert relative_error(gradients(tiled.loss, *z), expected) < 1e-13
    assert tiled.positive_rank_mean == whole.positive_rank_mean


def test_metrics_are_those_of_the_full_similarity_matrix():
    z_1, z_2 = embeddings(40, 8, "random")
    z_2 = z_2 + z_1
    result = nt_xent(z_1, z_2, 0.1)
    z = F.normalize(torch.cat((z_1, z_2)), dim=1)
    similarity = z @ z.T
    rows = torch.arange(80)
    positive = similarity[rows, rows.roll(40)]
    rank = torch.stack([(similarity[i] > positive[i]).sum() - 1 for i in rows])  # one of them is the row itself
    assert 0 < result.top1 < result.top5 < 1
    assert result.top1 == (rank == 0).double().mean()
    assert result.top5 == (rank < 5).double().mean()
    assert result.positive_rank_mean == rank.double().mean()
    assert result.embedding_std.item() == pytest.approx((z.std(0, correction=0).mean() * 8**0.5).item())


def _loss_and_gradient(count: int, dtype: torch.dtype, class_api: bool) -> tuple[float, Tensor, list[float]]:
    tiles._CPU_TILE = 12  # so that tiles cut through the slots of processes
    z_1, z_2 = embeddings(32, 16, "random", dtype)
    rank = torch.distributed.get_rank() if count > 1 else 0
    mine = [tensor.chunk(count)[rank].clone().requires_grad_() for tensor in (z_1, z_2)]
    result = nt_xent(*mine, 0.1)
    loss = NTXentLoss(0.1)(*mine) if class_api else result.loss
    return (
        loss.item(),
        torch.stack(torch.autograd.grad(loss, mine)),
        [result.top1.item(), result.positive_rank_mean.item()],
    )


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("class_api", [False, True], ids=["function", "class"])
def test_loss_metrics_and_gradient_on_several_processes_are_those_of_one(count, class_api):
    z = [tensor.requires_grad_() for tensor in embeddings(32, 16, "random")]
    reference = plain_nt_xent(*z, 0.1)
    expected = torch.stack(torch.autograd.grad(reference, z))
    alone = nt_xent(*z, 0.1)
    results = run_distributed(count, _loss_and_gradient, count, torch.float64, class_api)
    for loss, _, metrics in results:
        assert loss == pytest.approx(reference.item(), rel=1e-12)
        assert metrics == [alone.top1.item(), alone.positive_rank_mean.item()]
    # Each process has its own rows' gradient times the number of processes: DDP's mean then gives the whole.
    gathered = torch.cat([gradient for _, gradient, _ in results], dim=1) / count
    assert relative_error(gathered, expected) < 1e-12


def _unequal() -> str:
    images = 4 + torch.distributed.get_rank()
    try:
        NTXentLoss(0.1)(torch.randn(images, 8), torch.randn(images, 8))
    except ValueError as error:
        return str(error)
    return "accepted"


def test_processes_with_unequal_numbers_of_images_are_refused():
    assert all("[4, 5]" in message for message in run_distributed(2, _unequal))


@pytest.mark.parametrize("shapes", [((4, 8), (5, 8)), ((4, 8, 1), (4, 8, 1))])
def test_views_of_different_shapes_are_refused(shapes):
    with pytest.raises(ValueError, match="one shape"):
        nt_xent(torch.randn(shapes[0]), torch.randn(shapes[1]), 0.1)


def test_half_precision_embeddings_are_summed_in_float32():
    z = [tensor.bfloat16() for tensor in embeddings(16, 8, "random", torch.float32)]
    assert nt_xent(*z, 0.1).loss.item() == nt_xent(*(tensor.float() for tensor in z), 0.1).loss.item()
