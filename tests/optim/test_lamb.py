"""LAMB against torch_optimizer's, whose values it has, and whose checkpoints it goes on with."""

import copy

import pytest
import torch
from torch import nn

from simclr_dist.optim import lamb
from simclr_dist.optim.lamb import LAMB
from tests.support.methods import method_config
from tests.support.processes import final_state, pretrain_here

torch_optimizer = pytest.importorskip("torch_optimizer")
SETTINGS = {"lr": 1.0, "betas": (0.9, 0.999)}
RATES = (0.0, 0.3, 0.01)  # the first step of a warm-up has rate 0


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Large (of a norm above 10), small, in other layouts, of zeros."""
    random = torch.Generator().manual_seed(0)
    shapes = [(300, 301), (5, 3), (7,), (), (4, 3, 3, 3), (4, 5)]
    drawn = [torch.randn(shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes]
    drawn[4] = drawn[4].to(memory_format=torch.channels_last)
    drawn[5] = drawn[5].t()
    return [nn.Parameter(each) for each in [*drawn, torch.zeros(3, 2, dtype=dtype), torch.ones(3, 2, dtype=dtype)]]


def groups(weights: list[nn.Parameter]) -> list[dict[str, object]]:
    return [{"params": weights[::2], "weight_decay": 0.1}, {"params": weights[1::2], "weight_decay": 0.0}]


def walk(optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], seeds: range) -> None:
    for seed in seeds:
        random = torch.Generator().manual_seed(seed)
        for group in optimizer.param_groups:
            group["lr"] = RATES[seed % len(RATES)]
        for weight in weights:
            gradient = torch.randn(weight.shape, generator=random, dtype=torch.float64)
            weight.grad = torch.empty_like(weight).copy_(gradient)
        weights[-1].grad = torch.zeros_like(weights[-1])  # and so its step, without decay
        optimizer.step()


def test_on_a_cpu_it_has_the_packages_bits():
    own, theirs = parameters(), parameters()
    walk(LAMB(groups(own), **SETTINGS), own, range(6))
    walk(torch_optimizer.Lamb(groups(theirs), **SETTINGS), theirs, range(6))
    assert all(torch.equal(one, other) for one, other in zip(own, theirs, strict=True))
    assert not torch.equal(own[0], parameters()[0])


def test_the_way_of_other_devices_has_the_packages_values_and_reads_none_of_them(monkeypatch):
    monkeypatch.setattr(lamb, "_host_has_values", lambda _: False)
    own, theirs = parameters(torch.float64), parameters(torch.float64)
    walk(LAMB(groups(own), **SETTINGS), own, range(6))
    walk(torch_optimizer.Lamb(groups(theirs), **SETTINGS), theirs, range(6))
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("host_has_values", [True, False])
def test_a_group_that_is_not_adapted_moves_by_adams_step_and_the_rate_alone(monkeypatch, host_has_values):
    monkeypatch.setattr(lamb, "_host_has_values", lambda _: host_has_values)
    weight = nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))
    weight.grad = torch.tensor([1e-15, 2.0], dtype=torch.float64)
    LAMB([{"params": [weight], "adapt": False}], **(SETTINGS | {"lr": 0.5})).step()
    steps = [0.1 * gradient / (0.001**0.5 * gradient + 1e-6) for gradient in weight.grad.tolist()]
    assert weight.tolist() == pytest.approx([3 - 0.5 * steps[0], -4 - 0.5 * steps[1]], rel=1e-14)


def test_biases_before_batch_norm_whose_gradient_is_rounding_do_not_part_chunks_from_the_whole(tmp_path):
    found = []
    for chunk in (0, 8):
        folder = tmp_path / str(chunk)
        folder.mkdir()
        pretrain_here(
            method_config(
                "swav", folder, "recipe.optimizer.name=lamb", "recipe.batch_norm_group_images=8",
                "recipe.optimizer.base_learning_rate=0.1", "recipe.encoder.width=0.125", "machine.precision=float64",
                f"machine.images_per_chunk={chunk}", "machine.stop_after_steps=3",
            )
        )  # fmt: skip
        found.append(final_state(folder / "run")["model"])
    whole, chunks = found
    assert max(float((whole[key].double() - chunks[key].double()).abs().max()) for key in whole) < 1e-8


def test_no_number_is_asked_of_the_device():
    weights = [nn.Parameter(each.to("meta")) for each in parameters()]
    optimizer = LAMB(groups(weights), **SETTINGS)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert all(state["exp_avg"].is_meta for state in optimizer.state.values())


def test_a_run_that_the_package_began_goes_on_to_the_bit():
    own, theirs = parameters(), parameters()
    package = torch_optimizer.Lamb(groups(theirs), **SETTINGS)
    walk(package, theirs, range(3))
    optimizer = LAMB(groups(own), **SETTINGS)
    with torch.no_grad():
        for weight, value in zip(own, theirs, strict=True):
            weight.copy_(value)
    optimizer.load_state_dict(copy.deepcopy(package.state_dict()))
    assert {name for state in optimizer.state.values() for name in state} == {"exp_avg", "exp_avg_sq"}
    for one, weights in ((optimizer, own), (package, theirs)):
        walk(one, weights, range(3, 7))
    assert all(torch.equal(one, other) for one, other in zip(own, theirs, strict=True))


def test_a_parameter_without_a_gradient_is_left_alone():
    weights = parameters()[:2]
    before = weights[1].detach().clone()
    weights[0].grad = torch.ones_like(weights[0])
    LAMB(weights, **SETTINGS).step()
    assert torch.equal(weights[1], before)
