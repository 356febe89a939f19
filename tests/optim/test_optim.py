"""LARS and the schedule against values of published code, and every optimizer by its name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from simclr_dist.config import Recipe
from simclr_dist.config.recipe import OPTIMIZERS, Optimizer
from simclr_dist.data.loading.order import build_order
from simclr_dist.optim import LARS, Schedule, make_optimizer, parameter_groups
from simclr_dist.optim.schedule import build_schedule, peak_learning_rate
from tests.support.golden import golden

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "google_simclr.json").read_text())


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


def flat(tree: dict[str, Any], above: str = "") -> dict[str, torch.Tensor]:
    """The arrays of a nested record by dotted name."""
    found: dict[str, torch.Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{name}.")
        else:
            found[above + name] = torch.tensor(value, dtype=torch.float64)
    return found


@pytest.mark.parametrize(
    ("method", "record"),
    [(name, n) for name in ("byol", "moco_v3", "barlow_twins") for n in range(len(golden(name)["lars"]))],
)
def test_lars_with_the_rate_alone_outside_the_momentum_is_that_of_the_methods_own_code(method, record):
    case = golden(method)["lars"][record]
    weights = {name: nn.Parameter(value) for name, value in flat(case["start"]).items()}
    vectors = [] if case.get("bias_and_norm_excluded") is False else [w for w in weights.values() if w.dim() == 1]
    optimizer = LARS(
        [
            {"params": [w for w in weights.values() if all(w is not each for each in vectors)]},
            {"params": vectors, "weight_decay": 0.0, "adapt": False},
        ],
        lr=0.0,
        momentum=case["momentum"],
        weight_decay=case["weight_decay"],
        trust_coefficient=case.get("eta") or case["trust_coefficient"],
        classic_momentum=False,
        trust_in_momentum=True,
    )
    assert case["learning_rates"][0] == 0  # the buffer fills in this step too
    for rate, gradients, after in zip(case["learning_rates"], case["gradients"], case["weights_after"], strict=True):
        for group, share in zip(optimizer.param_groups, (1, case.get("bias_and_norm_rate", 1)), strict=True):
            group["lr"] = rate * share
        for name, gradient in flat(gradients).items():
            weights[name].grad = gradient
        optimizer.step()
        for name, expected in flat(after).items():
            assert torch.allclose(weights[name], expected, rtol=1e-10, atol=1e-12), name


def test_a_state_of_before_the_forms_of_lars_resumes_without_them():
    weight = nn.Parameter(torch.ones(3, 2))
    state = LARS([weight], lr=0.1).state_dict()
    del state["param_groups"][0]["trust_in_momentum"], state["param_groups"][0]["trust_clip"]
    optimizer = LARS([weight], lr=0.1, trust_in_momentum=True, trust_clip=True)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["trust_in_momentum"] is optimizer.param_groups[0]["trust_clip"] is False


def schedules() -> list[Any]:
    """(a published schedule, step -> its rate)."""
    found = []
    for name in ("barlow_twins", "vicreg"):
        for case in golden(name)["schedule"]:
            rates = case.get("rate_at_step") or {
                step: both[0] for step, both in case["weights_and_biases_rate_at_step"].items()
            }
            epoch = case["steps_per_epoch"]
            peak = case.get("base_lr", 0.2) * case["batch_size"] / 256
            schedule = Schedule(
                peak=peak, warmup_steps=10 * epoch, total_steps=case["epochs"] * epoch, final_share=0.001
            )
            found.append(pytest.param(schedule, rates, id=f"{name}-{case['epochs']}-{case['batch_size']}"))
    steps = 50  # of an epoch, in whose middle rates by epoch are those of its beginning
    for case in golden("moco")["schedule"]:
        decay = "cosine_by_epoch" if case["cosine"] else "steps"
        schedule = Schedule(
            peak=case["base_learning_rate"], warmup_steps=0, total_steps=case["epochs"] * steps,
            steps_per_epoch=steps, decay=decay,
        )  # fmt: skip
        rates = {
            int(epoch) * steps + middle: rate for epoch, rate in case["rate_at_epoch"].items() for middle in (0, 25)
        }
        found.append(pytest.param(schedule, rates, id=f"moco-{decay}-{case['epochs']}"))
    for case in golden("moco_v3")["schedule"]:
        schedule = Schedule(
            peak=case["base_learning_rate"], warmup_steps=case["warmup_epochs"] * 100, total_steps=case["epochs"] * 100
        )
        rates = {round(float(epoch) * 100): rate for epoch, (rate, _) in case["at_epoch"].items()}
        found.append(pytest.param(schedule, rates, id=f"moco_v3-{case['epochs']}"))
    return found


@pytest.mark.parametrize(("schedule", "rates"), schedules())
def test_the_learning_rate_is_that_of_the_methods_own_code_at_every_listed_step(schedule, rates):
    assert len(rates) > 4
    for step, rate in rates.items():
        assert schedule(int(step)) == pytest.approx(rate, rel=1e-10, abs=1e-13 * schedule.peak), step


def test_the_recipes_keys_reach_the_schedule_and_lars():
    keys = Optimizer(
        base_learning_rate=0.8, learning_rate_decay="cosine_by_epoch", final_learning_rate_share=0.25,
        classic_momentum=False, trust_in_momentum=True,
    )  # fmt: skip
    recipe = Recipe(epochs=2, warmup_epochs=0, global_batch_images=256, optimizer=keys)
    schedule = build_schedule(recipe, build_order(recipe, 3 * 256))
    assert [schedule(step) for step in range(7)] == pytest.approx([0.8] * 3 + [0.5] * 3 + [0.2])
    assert make_optimizer(nn.Linear(2, 2), keys).defaults["trust_in_momentum"]


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


def _lars_by_its_formula(weight, gradient, buffer, group):
    direction = gradient + group["weight_decay"] * weight
    if not group["classic_momentum"] and not group["trust_in_momentum"]:
        buffer = direction = group["momentum"] * buffer + direction
    rate = group["lr"] if group["classic_momentum"] or not group["trust_in_momentum"] else 1.0
    if group["adapt"] and weight.norm() > 0 and direction.norm() > 0:
        trust = group["trust_coefficient"] * weight.norm() / direction.norm()
        if group["trust_clip"]:
            trust = min(trust / group["lr"], 1.0) if group["lr"] else 1.0
        rate = rate * trust
    if group["classic_momentum"]:
        buffer = group["momentum"] * buffer + rate * direction
        return weight - buffer, buffer
    if group["trust_in_momentum"]:
        buffer = group["momentum"] * buffer + rate * direction
        return weight - group["lr"] * buffer, buffer
    return weight - rate * buffer, buffer


def _tensors_of_many_layouts() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights, gradients: large, small, scalar, empty, zero, of two types, in equal or unequal layouts, with gaps."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    last = {"memory_format": torch.channels_last}
    return [
        (draw(300, 301), draw(300, 301)),
        (draw(5, 3), draw(5, 3)),
        (draw(7), draw(7)),
        (draw(), draw()),
        (draw(0, 2), draw(0, 2)),
        (torch.zeros(3, 2, dtype=torch.float64), draw(3, 2)),
        (draw(3, 2), torch.zeros(3, 2, dtype=torch.float64)),
        (draw(5, 3).float(), draw(5, 3).float()),
        (draw(4, 3, 3, 3).to(**last), draw(4, 3, 3, 3).to(**last)),
        (draw(4, 3, 3, 3).to(**last), draw(4, 3, 3, 3)),
        (draw(4, 5).t(), draw(5, 4)),
        (draw(6, 8)[:, ::2], draw(6, 4)),
        (draw(6, 8)[:, ::2], draw(6, 8)[:, ::2]),
    ]


@pytest.mark.parametrize(
    ("classic", "trust", "clip"),
    [(True, False, False), (False, True, False), (False, False, False), (True, False, True), (False, True, True)],
)
@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("decay", [0.1, 0.0])
def test_lars_is_its_formula_for_every_layout(classic, trust, clip, adapt, momentum, decay):
    pairs = _tensors_of_many_layouts()
    # As they are: nn.Parameter would keep layouts, clone would close gaps.
    weights = [weight.clone() if weight.is_contiguous() else weight for weight, _ in pairs]
    expected = [(weight.double().clone(), torch.zeros_like(weight).double()) for weight, _ in pairs]
    optimizer = LARS(
        [{"params": weights, "adapt": adapt}],
        lr=0.0,
        momentum=momentum,
        weight_decay=decay,
        trust_coefficient=0.1,
        classic_momentum=classic,
        trust_in_momentum=trust,
        trust_clip=clip,
    )
    (group,) = optimizer.param_groups
    for step in range(4):
        group["lr"] = 0.3 * step  # the first step of a warm-up has rate 0
        gradients = [(1 + step) * gradient.clone() for _, gradient in pairs]
        for weight, gradient, (_, like) in zip(weights, gradients, pairs, strict=True):
            weight.grad = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype).copy_(gradient)
        optimizer.step()
        for number, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            assert torch.equal(weight.grad, gradient), number
            expected[number] = _lars_by_its_formula(expected[number][0], gradient.double(), expected[number][1], group)
            tolerance = 1e-6 if weight.dtype == torch.float32 else 1e-13
            assert torch.allclose(weight.double(), expected[number][0], rtol=tolerance, atol=tolerance), number


@pytest.mark.parametrize("decay", [0.1, 0.0])
def test_lars_is_bit_equal_wherever_in_memory_its_tensors_lie(decay):
    # Replicas hold equal weights and gradients at unequal addresses, such as views into DDP's buckets.
    values = torch.randn(3, 100_003, generator=torch.Generator().manual_seed(0))

    def after_two_steps(offset: int) -> torch.Tensor:
        weight, gradient, buffer = (torch.empty(100_100)[offset * n :][:100_003] for n in (1, 2, 3))
        for tensor, value in zip((weight, gradient, buffer), values, strict=True):
            tensor.copy_(value)
        weight.grad = gradient
        optimizer = LARS([weight], lr=1.0, weight_decay=decay, trust_coefficient=1.0)
        optimizer.state[weight]["momentum_buffer"] = buffer
        optimizer.step()
        optimizer.step()
        return weight

    reference = after_two_steps(0)
    assert all(torch.equal(after_two_steps(offset), reference) for offset in range(1, 17))


@pytest.mark.parametrize("adapt", [True, False])
def test_backward_through_weights_lars_has_changed_is_refused(adapt):
    weight = nn.Parameter(torch.ones(3, 2))
    weight.grad = torch.ones(3, 2)
    loss = weight.square().sum()
    LARS([{"params": [weight], "adapt": adapt}], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


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
