"""SimSiam against facebookresearch/simsiam: loss, gradient, and whole steps with the predictor's constant rate."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr_dist.data.loading.batch import Batch
from simclr_dist.methods.simsiam import SimSiam
from simclr_dist.optim.rates import Moment, rate_of
from simclr_dist.training.gradients import compute_gradients
from tests.support.golden import ToyParts, golden, tensor, toy_recipe
from tests.support.processes import relative_error

GOLDEN = golden("simsiam")
EXACT = 1e-10
NAMES = {
    "encoder.fc.0": "projection.linear_1", "encoder.fc.1": "projection.norm_1", "encoder.fc.3": "projection.linear_2",
    "encoder.fc.4": "projection.norm_2", "encoder.fc.6": "projection.linear_3", "encoder.fc.7": "projection.norm_3",
    "predictor.0": "predictor.linear_1", "predictor.1": "predictor.norm_1", "predictor.3": "predictor.linear_2",
}  # fmt: skip
UNTRAINED = "encoder.fc.6.bias"  # of the authors': the batch norm after it takes it out again


class Parts(ToyParts):
    features = 6


def toy(dim: int = 6, **options: Any) -> SimSiam:
    config = SimSiam.Config(output_dim=dim, predictor_dim=3, **options)
    return SimSiam(config, Parts(toy_recipe(8)), 8).double()


def batch_of(views: Tensor) -> Batch:
    return Batch(views={"global": views}, samples=torch.from_numpy(np.arange(len(views))), epoch=0, seed=0)


def own_names(told: dict[str, Any]) -> dict[str, Tensor]:
    """The authors' tensors under the names of this project."""
    found = {}
    for key, values in told.items():
        module, _, tensor_name = key.rpartition(".")
        found[f"{NAMES.get(module, module)}.{tensor_name}"] = tensor(values)
    return found


@pytest.mark.parametrize("record", GOLDEN["loss"])
def test_loss_and_gradient_are_those_of_the_authors_and_none_reaches_the_targets(record):
    p, z = (torch.stack([tensor(record[f"{name}{view}"]) for view in (1, 2)], dim=1) for name in "pz")
    p.requires_grad_(), z.requires_grad_()
    outputs = toy().loss({"p": p, "z": z}, {}, batch_of(torch.zeros(len(p), 2, 6)))
    outputs["loss"].backward()
    assert float(outputs["loss"].detach()) == pytest.approx(record["loss"], rel=EXACT)
    expected = torch.stack([tensor(record[f"gradient_p{view}"]) for view in (1, 2)], dim=1)
    assert relative_error(p.grad, expected) < EXACT
    assert z.grad is None


def test_whole_steps_are_those_of_the_authors():
    (record,) = GOLDEN["training"]
    method = toy()
    start = own_names({key: values for key, values in record["start"].items() if key != UNTRAINED})
    assert not method.load_state_dict(start, strict=False).unexpected_keys
    rates, named = method.rates(), dict(method.named_parameters())
    groups = {key: rate_of(rates, key, parameter) for key, parameter in named.items()}
    optimizer = torch.optim.SGD(
        [{"params": [named[key] for key in named if groups[key] == number]} for number in (None, 0)],
        lr=record["init_lr"], momentum=record["momentum"], weight_decay=record["weight_decay"],
    )  # fmt: skip
    for number, step in enumerate(record["steps"]):
        views = torch.stack([tensor(record[f"view_{view}"][number]) for view in (1, 2)], dim=1)
        outputs = compute_gradients(method, method, batch_of(views)).outputs
        assert float(outputs["loss"]) == pytest.approx(step["loss"], rel=EXACT)
        for key, gradient in own_names(step["gradient"] or {}).items():
            assert (named[key].grad - gradient).norm() < EXACT, key
        scheduled, constant = step["rates"]
        moment = Moment(step=number, steps=4, steps_per_epoch=1, scheduled=scheduled, peak=record["init_lr"])
        assert rates[0].of(moment) == constant
        for group, rate in zip(optimizer.param_groups, step["rates"], strict=True):
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    bias = tensor(record["end"].pop(UNTRAINED))
    ends = own_names(record["end"])
    passes = 2 * len(record["steps"])
    ends["projection.norm_3.running_mean"] -= (1 - 0.9**passes) * bias
    state = method.state_dict()
    for key, value in ends.items():
        assert (state[key] - value).norm() < EXACT, key


def test_the_predictor_follows_the_schedule_where_the_recipe_says_so():
    assert toy(constant_predictor_rate=False).rates() == ()
