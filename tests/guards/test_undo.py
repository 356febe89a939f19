"""A step that was taken before it was judged leaves nothing behind when it is taken back."""

import copy
import math

import pytest
import torch
from torch import nn

from simclr_dist.config.recipe import OPTIMIZERS, Optimizer
from simclr_dist.data.loading.batch import blank_batch
from simclr_dist.guards.undo import Undo
from simclr_dist.optim import make_optimizer
from simclr_dist.training.step import StoppedByAnomalyError
from tests.support.poison import poisoned
from tests.support.processes import assert_bit_equal, tiny_config
from tests.support.steps import training_step


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps_before", [0, 2])
def test_what_an_optimizers_step_has_changed_is_put_back_to_the_bit(name, steps_before):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(module, Optimizer(name=name))

    def step(rate: float, spoilt: float = 1.0) -> None:
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = rate / (1 + number)
        for number, parameter in enumerate(module.parameters()):
            parameter.grad = torch.full_like(parameter, (1 + number) * spoilt)
        optimizer.step()

    def now() -> dict:
        return copy.deepcopy({"weights": module.state_dict(), "optimizer": optimizer.state_dict()})

    for _ in range(steps_before):
        step(0.1)
    before, undo = now(), Undo(optimizer)
    step(0.3, spoilt=math.nan)
    assert any(weight.isnan().any() for weight in module.parameters())
    undo.put_back()
    assert_bit_equal(now(), before)
    step(0.2)
    after = now()
    other = copy.deepcopy(module)
    other.load_state_dict(before["weights"])
    module, optimizer = other, make_optimizer(other, Optimizer(name=name))
    optimizer.load_state_dict(before["optimizer"])
    step(0.2)
    assert_bit_equal(now(), after)


def _overflow(features: torch.Tensor) -> torch.Tensor:
    return features * math.inf


@pytest.mark.parametrize("policy", ["skip", "go_back", "stop"])
def test_updates_before_and_after_the_judgement_leave_the_same_states(tmp_path, policy):
    # BYOL: what follows an update must follow one that stands. A GPU's order, on a CPU; the first step is bad, too.
    config = tiny_config(
        tmp_path, f"recipe.anomalies.on_not_finite={policy}", "recipe.anomalies.rollback_every_steps=2",
        "recipe.method.name=byol", "recipe.method.hidden_dim=16", "recipe.method.output_dim=16",
        "recipe.batch_norm_group_images=8",
    )  # fmt: skip
    batch = blank_batch(config.recipe, 32, torch.device("cpu"))
    for views in batch.views.values():
        views.random_(0, 256, generator=torch.Generator().manual_seed(0))

    def walked(*, ahead: bool) -> list[dict]:
        """The state after each step and what it said, of whose steps the first and the fourth are bad."""
        step, found = training_step(config, 64), []
        step.updates_ahead = ahead

        def walk() -> None:
            for number in range(5):
                try:
                    said = step(batch, number)
                except StoppedByAnomalyError as error:
                    said = {"stopped": str(error)}
                said = {name: str(value) for name, value in said.items()}  # NaN is not equal to itself
                found.append(copy.deepcopy({name: each.state_dict() for name, each in step.state.items()} | said))

        poisoned((1, 4), lambda features: features * math.inf, walk)
        return found

    before, after = walked(ahead=True), walked(ahead=False)
    assert_bit_equal(dict(enumerate(before)), dict(enumerate(after)))
    assert not before[0]["optimizer"]["state"]
    assert before[1]["optimizer"]["state"]
