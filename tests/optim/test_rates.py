"""Rates of a method's own: which parameters take them, what frozen means for every optimizer, and after a resume."""

import copy

import pytest
import torch
from torch import nn

from simclr_dist.config.recipe import OPTIMIZERS, Optimizer
from simclr_dist.optim import make_optimizer
from simclr_dist.optim.rates import Moment, Rate, parameter_groups, rate_of, set_rates

PEAK = 0.5


def moment(step: int, scheduled: float = 0.25) -> Moment:
    return Moment(step=step, steps=10, steps_per_epoch=5, scheduled=scheduled, peak=PEAK)


def head(name: str, parameter: nn.Parameter) -> bool:
    return name.startswith("head.")


FROZEN_FIRST = Rate(head, lambda now: None if now.step < 2 else now.scheduled)
CONSTANT = Rate(head, lambda now: now.peak)
BIASES = Rate(lambda name, parameter: parameter.dim() == 1, lambda now: 0.1 * now.scheduled)


def network() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Module()
    module.body, module.head = nn.Linear(6, 5), nn.Linear(5, 4)
    return module


def optimizer_of(module: nn.Module, name: str = "sgd", *rates: Rate) -> torch.optim.Optimizer:
    keys = Optimizer(name=name, weight_decay=0.1, trust_coefficient=0.1, classic_momentum=False)
    return make_optimizer(module, keys, rates)


def step(module: nn.Module, optimizer: torch.optim.Optimizer, rates: list[Rate], now: Moment) -> None:
    optimizer.zero_grad()
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(now.step))
    module.head(module.body(x).relu()).square().mean().backward()
    set_rates(optimizer, rates, now)
    optimizer.step()


def state_of(module: nn.Module, optimizer: torch.optim.Optimizer, prefix: str) -> dict:
    """Copies of the weights, and of the optimizer's state of each, below a name."""
    return {
        name: (parameter.detach().clone(), copy.deepcopy(dict(optimizer.state.get(parameter, {}))))
        for name, parameter in module.named_parameters()
        if name.startswith(prefix)
    }


def same(one: dict, other: dict) -> bool:
    def equal(left: dict, right: dict) -> bool:
        return left.keys() == right.keys() and all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(right[key])) for key, value in left.items()
        )

    return all(torch.equal(one[name][0], other[name][0]) and equal(one[name][1], other[name][1]) for name in one)


def rates_now(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Parameter -> the learning rate of its group."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {names[id(each)]: group["lr"] for group in optimizer.param_groups for each in group["params"]}


def test_a_parameter_takes_the_first_rate_that_matches_it_and_else_the_schedules():
    module = network()
    for rates, expected in (
        ([BIASES, CONSTANT], {"body.weight": None, "body.bias": 0, "head.weight": 1, "head.bias": 0}),
        ([CONSTANT, BIASES], {"body.weight": None, "body.bias": 1, "head.weight": 0, "head.bias": 0}),
        ([], dict.fromkeys(["body.weight", "body.bias", "head.weight", "head.bias"])),
    ):
        assert {name: rate_of(rates, name, each) for name, each in module.named_parameters()} == expected
        values = {None: 0.25, **{number: rate.of(moment(0)) for number, rate in enumerate(rates)}}
        optimizer = optimizer_of(module, "sgd", *rates)
        set_rates(optimizer, rates, moment(0))
        assert rates_now(module, optimizer) == {name: values[number] for name, number in expected.items()}


def test_every_trained_parameter_stands_in_one_group_with_its_decay():
    module = network()
    module.teacher = nn.Linear(2, 2).requires_grad_(False)
    groups = parameter_groups(module, 0.1, [CONSTANT, BIASES])
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    assert sorted(id(each) for group in groups for each in group["params"]) == sorted(map(id, trained))
    for group in groups:
        for parameter in group["params"]:
            assert (group["weight_decay"], group["adapt"]) == ((0.1, True) if parameter.dim() > 1 else (0.0, False))


def test_a_constant_rate_and_a_multiple_are_told_the_step_and_the_schedule():
    seen = []
    rates = [Rate(head, lambda now: seen.append(now) or now.peak), BIASES]
    module = network()
    optimizer = optimizer_of(module, "sgd", *rates)
    for number, scheduled in enumerate((0.0, 0.4, 0.1)):
        set_rates(optimizer, rates, moment(number, scheduled))
        now = rates_now(module, optimizer)
        assert now["head.weight"] == now["head.bias"] == PEAK
        assert now["body.weight"] == scheduled
        assert now["body.bias"] == pytest.approx(0.1 * scheduled)
    assert {each.step for each in seen} == {0, 1, 2}
    assert {(each.steps, each.steps_per_epoch) for each in seen} == {(10, 5)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_frozen_keeps_its_weights_momentum_and_decay_while_the_rest_moves(name):
    module = network()
    rates = [FROZEN_FIRST]
    optimizer = optimizer_of(module, name, *rates)
    start, body = state_of(module, optimizer, "head."), state_of(module, optimizer, "body.")
    for number in range(2):
        step(module, optimizer, rates, moment(number))
    assert same(state_of(module, optimizer, "head."), start)  # no state at all: nothing was begun
    assert not any(torch.equal(value, body[key][0]) for key, (value, _) in state_of(module, optimizer, "body.").items())
    # Free for two steps, then frozen again: what momentum there is stays too.
    for number in (2, 3):
        step(module, optimizer, rates, moment(number))
    moved = state_of(module, optimizer, "head.")
    assert not any(torch.equal(value, start[key][0]) for key, (value, _) in moved.items())
    assert all(kept for _, kept in moved.values())
    for number in range(2):
        step(module, optimizer, rates, moment(number))
    assert same(state_of(module, optimizer, "head."), moved)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_0_moves_no_weight_and_still_fills_momentum(name):
    module = network()
    rates = [Rate(head, lambda now: 0.0)]
    optimizer = optimizer_of(module, name, *rates)
    start = state_of(module, optimizer, "head.")
    step(module, optimizer, rates, moment(0))
    for key, (value, kept) in state_of(module, optimizer, "head.").items():
        assert torch.equal(value, start[key][0])
        buffer = kept["momentum_buffer" if name in ("lars", "sgd") else "exp_avg"]
        assert buffer.abs().sum() > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_of_before_there_were_rates_loads(name):
    module = network()
    before = optimizer_of(module, name)
    step(module, before, [], moment(1))
    state = copy.deepcopy(before.state_dict())
    assert not any("rate" in group for group in state["param_groups"])
    after = optimizer_of(module, name)
    after.load_state_dict(state)
    weights = copy.deepcopy(module.state_dict())
    step(module, before, [], moment(2))
    expected = copy.deepcopy(module.state_dict())
    module.load_state_dict(weights)
    step(module, after, [], moment(2))
    assert all(torch.equal(value, expected[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rates_of_parameters_survive_a_checkpoint(name, tmp_path):
    module, rates = network(), [FROZEN_FIRST, BIASES]
    optimizer = optimizer_of(module, name, *rates)
    step(module, optimizer, rates, moment(3))
    torch.save((module.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    step(module, optimizer, rates, moment(4))
    step(module, optimizer, rates, moment(1))  # frozen

    again = network()
    again.load_state_dict(weights)
    restored = optimizer_of(again, name, *rates)
    restored.load_state_dict(state)
    assert [group.get("rate") for group in restored.param_groups] == [None, None, 0, 0, 1, 1]
    step(again, restored, rates, moment(4))
    step(again, restored, rates, moment(1))
    assert rates_now(again, restored) == rates_now(module, optimizer)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in module.state_dict().items())


def test_groups_without_parameters_are_no_harm():
    module, rates = network(), [Rate(lambda name, parameter: False, lambda now: None)]
    optimizer = optimizer_of(module, "lars", *rates)
    step(module, optimizer, rates, moment(0))
    assert {group["lr"] for group in optimizer.param_groups if group["params"]} == {0.25}
