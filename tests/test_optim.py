"""LARS and the schedule against Google's values, and every optimizer by its name."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from simclr_dist.config.schema import OPTIMIZERS, Optimizer
from simclr_dist.optim import LARS, Schedule, make_optimizer, parameter_groups
from simclr_dist.optim.schedule import peak_learning_rate

GOLDEN = json.loads((Path(__file__).parent / "golden" / "google_simclr.json").read_text())


@pytest.mark.parametrize(
    "case", GOLDEN["lars"], ids=lambda case: f"classic={case['classic_momentum']}-decay={case['weight_decay']:g}"
)
def test_ten_lars_steps_are_those_of_googles_code(case):
    weights = {name: nn.Parameter(torch.tensor(value, dtype=torch.float64)) for name, value in case["start"].items()}
    adapted = [weight for name, weight in weights.items() if name not in case["excluded"]]
    excluded = [weights[name] for name in case["excluded"]]
    optimizer = LARS(
        [{"params": adapted}, {"params": excluded, "weight_decay": 0.0, "adapt": False}],
        lr=0.0,
        momentum=case["momentum"],
        weight_decay=case["weight_decay"],
        trust_coefficient=case["eeta"],
        classic_momentum=case["classic_momentum"],
    )
    for rate, gradient, after in zip(case["learning_rates"], case["gradients"], case["weights_after"], strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, weight in weights.items():
            weight.grad = torch.tensor(gradient[name], dtype=torch.float64)
        optimizer.step()
        for name, weight in weights.items():
            assert torch.allclose(weight, torch.tensor(after[name], dtype=torch.float64), rtol=0, atol=1e-6), name


@pytest.mark.parametrize("case", GOLDEN["schedule"], ids=lambda case: case["learning_rate_scaling"])
def test_the_learning_rate_is_googles_at_every_listed_step(case):
    peak = peak_learning_rate(case["base_learning_rate"], case["learning_rate_scaling"], case["train_batch_size"])
    warmup = round(case["warmup_epochs"] * case["num_examples"] // case["train_batch_size"])
    schedule = Schedule(peak=peak, warmup_steps=warmup, total_steps=case["total_steps"])
    assert len(case["values"]) > 5
    for step, value in case["values"].items():
        assert schedule(int(step)) == pytest.approx(value, abs=1e-6 * peak), step


def test_without_scaling_the_peak_is_the_base_rate():
    assert peak_learning_rate(0.3, "none", 4096) == 0.3


def _lars_step(weight: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    parameter = nn.Parameter(weight.clone())
    parameter.grad = gradient
    LARS([parameter], lr=0.1, momentum=0.9, trust_coefficient=0.001).step()
    return parameter.detach() - weight


def test_lars_takes_plain_steps_where_a_norm_is_zero():
    zeros, ones = torch.zeros(3, 2), torch.ones(3, 2)
    assert torch.equal(_lars_step(zeros, ones), -0.1 * ones)
    assert torch.equal(_lars_step(ones, zeros), zeros)


def test_lars_adapts_without_weight_decay():
    # Several known implementations switch adaptation off when the decay is 0.
    weight, gradient = torch.ones(3, 2, dtype=torch.float64), torch.full((3, 2), 5.0, dtype=torch.float64)
    assert torch.allclose(_lars_step(weight, gradient), -0.1 * 0.001 * weight)


def test_lars_leaves_gradients_as_they_are():
    parameter = nn.Parameter(torch.ones(3, 2))
    parameter.grad = torch.full((3, 2), 2.0)
    LARS([parameter], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(parameter.grad, torch.full((3, 2), 2.0))


def test_biases_and_batch_norm_are_out_of_decay_and_adaptation():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, free = parameter_groups(module, 0.1)
    assert {id(p) for p in decayed["params"]} == {id(module[0].weight), id(module[3].weight)}
    assert (decayed["weight_decay"], decayed["adapt"]) == (0.1, True)
    assert (len(free["params"]), free["weight_decay"], free["adapt"]) == (4, 0.0, False)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_config_lowers_a_loss_and_restores_its_state(name):
    torch.manual_seed(0)
    module, x = nn.Linear(8, 8), torch.randn(64, 8)
    recipe = Optimizer(name=name, trust_coefficient=0.1)
    rate = {"lars": 1.0, "sgd": 0.05}.get(name, 0.01)

    def walk(optimizer: torch.optim.Optimizer, steps: int) -> float:
        for _ in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = (module(x) - x.flip(1)).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    optimizer = make_optimizer(module, recipe)
    first = walk(optimizer, 1)
    assert walk(optimizer, 50) < 0.9 * first
    before, state = [p.detach().clone() for p in module.parameters()], copy.deepcopy(optimizer.state_dict())
    walk(optimizer, 3)
    expected = [p.detach().clone() for p in module.parameters()]
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), before, strict=True):
            parameter.copy_(value)
    restored = make_optimizer(module, recipe)
    restored.load_state_dict(state)
    walk(restored, 3)
    assert all(torch.equal(p, e) for p, e in zip(module.parameters(), expected, strict=True))


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="nosuch"):
        make_optimizer(nn.Linear(2, 2), Optimizer(name="nosuch"))
