"""BYOL against google-deepmind/deepmind-research: loss, gradient, tau and rate by step, the target's move."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr_dist.data.loading.batch import Batch
from simclr_dist.methods.byol import BYOL
from simclr_dist.models.follower import follow, rising_momentum
from simclr_dist.optim import Schedule
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error

GOLDEN = golden("byol")
EXACT = 1e-10
RATE = 1e-6  # the published rate passes through float32


def toy(**options: Any) -> BYOL:
    return BYOL(BYOL.Config(hidden_dim=8, output_dim=8, **options), ToyParts(toy_recipe(4)), 4).double()


def batch_of(views: Tensor) -> Batch:
    """Of rows (images, 2, 6)."""
    samples = torch.from_numpy(np.arange(len(views)))
    return Batch(views={"first": views[:, :1], "second": views[:, 1:]}, samples=samples, epoch=0, seed=0)


def pair(record: dict[str, Any], name: str) -> Tensor:
    return torch.stack([tensor(record[f"{name}_view{view}"]) for view in (1, 2)], dim=1)


@pytest.mark.parametrize("record", GOLDEN["loss"])
def test_loss_and_gradient_are_those_of_the_authors(record):
    p, target = pair(record, "prediction").requires_grad_(), pair(record, "target_projection")
    outputs = toy().loss({"p": p, "z": p.detach()}, {"target": target}, batch_of(torch.zeros(len(p), 2, 6)))
    outputs["loss"].backward()
    assert float(outputs["loss"].detach()) == pytest.approx(record["loss"], rel=EXACT)
    assert relative_error(p.grad, pair(record, "gradient_prediction")) < EXACT


@pytest.mark.parametrize("record", GOLDEN["schedule"])
def test_tau_and_the_rate_are_those_of_the_authors_at_each_step(record):
    steps = record["total_steps"]
    for step, tau in record["tau_at_step"].items():
        assert rising_momentum(record["base_ema"], int(step), steps) == pytest.approx(tau, abs=EXACT)
    peak = record["base_learning_rate"] * record["batch_size"] / 256
    rate = Schedule(peak=peak, warmup_steps=record["warmup_steps"], total_steps=steps)
    for step, told in record["learning_rate_at_step"].items():
        assert rate(int(step)) == pytest.approx(told, abs=RATE * peak)


@pytest.mark.parametrize("record", GOLDEN["target_update"])
def test_the_target_moves_as_the_authors(record):
    target, online = torch.nn.Linear(4, 3, bias=False).double(), torch.nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        target.weight.copy_(tensor(record["target"]))
        online.weight.copy_(tensor(record["online_after_its_step"]))
    follow(target, online, record["tau"])
    assert relative_error(target.weight.detach(), tensor(record["target_after"])) < EXACT


def test_the_target_follows_with_the_tau_of_the_step_and_keeps_its_own_running_statistics():
    method = toy(target_momentum=0.5)
    views = torch.randn(4, 2, 6, dtype=torch.float64)
    method.targets(batch_of(views))
    before, online = method.target_encoder.body.weight.clone(), method.encoder.body.weight.detach()
    assert not torch.equal(before, online)  # it starts from weights of its own
    statistics = method.target_encoder.bn.running_mean.clone()
    method.after_update({}, {}, batch_of(views), 5, 10)  # half of the way: tau is 0.75
    assert torch.allclose(method.target_encoder.body.weight, 0.75 * before + 0.25 * online)
    assert torch.equal(method.target_encoder.bn.running_mean, statistics)
    assert not torch.equal(statistics, method.encoder.bn.running_mean)


def test_each_view_passes_alone_and_is_held_against_the_other():
    method = toy()
    views = torch.randn(4, 2, 6, dtype=torch.float64)
    changed = views.clone()
    changed[:, 1] += 1 + torch.randn(4, 6)
    p, other = (method.embed(batch_of(each))["p"] for each in (views, changed))
    assert torch.equal(p[:, 0], other[:, 0])
    assert not torch.allclose(p[:, 1], other[:, 1])
