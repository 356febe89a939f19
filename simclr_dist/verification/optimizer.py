"""The recipe's optimizer against plain formulas, tensor by tensor."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from simclr_dist.config.recipe import Optimizer
from simclr_dist.optim import factory
from simclr_dist.verification.check import Check, largest, relative_error
from simclr_dist.verification.miniature import Miniature

_RATES = [0.1, 0.2, 0.15]

State = tuple[Tensor, Tensor, Tensor]
"""A tensor, and what the optimizer keeps of it: one buffer, or two moments."""
Step = Callable[[Optimizer, float, int, Tensor, State], State]
"""(recipe's optimizer, rate, number from 1, gradient, before) -> after."""


def optimizer_check(small: Miniature) -> Check:
    """Some steps with other rates and gradients, biases and batch norm without decay and adaptation."""
    module = small.method()
    # The recipe's decay may be too small to be seen.
    recipe = replace(small.recipe.optimizer, weight_decay=max(small.recipe.optimizer.weight_decay, 1e-4))
    trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
    gradients = [
        {name: small.random(*each.shape, seed=number) for name, each in trained.items()}
        for number in range(len(_RATES))
    ]
    expected = {
        name: _after(recipe, each.detach().clone(), [of_step[name] for of_step in gradients])
        for name, each in trained.items()
    }
    optimizer = factory.make_optimizer(module, recipe)
    for rate, of_step in zip(_RATES, gradients, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, each in trained.items():
            each.grad = of_step[name].clone()
        optimizer.step()
    error = largest([relative_error(each, expected[name]) for name, each in trained.items()])
    return Check(f"{_NAMES[recipe.name]} step", error, 1e-12)


def _after(recipe: Optimizer, weight: Tensor, gradients: list[Tensor]) -> Tensor:
    state = (weight, weight * 0, weight * 0)
    if weight.dim() < 2:
        recipe = replace(recipe, weight_decay=0.0)
    for number, (rate, gradient) in enumerate(zip(_RATES, gradients, strict=True), 1):
        state = _STEPS[recipe.name](recipe, rate, number, gradient, state)
    return state[0]


def _lars(recipe: Optimizer, rate: float, number: int, gradient: Tensor, state: State) -> State:
    weight, buffer, unused = state
    direction = gradient + recipe.weight_decay * weight

    def adapted(moved: Tensor) -> float:
        """The rate of a tensor that moves along ``moved``."""
        if weight.dim() < 2 or not weight.norm() or not moved.norm():
            return rate
        trust = float(recipe.trust_coefficient * weight.norm() / moved.norm())
        return min(trust, rate) if recipe.trust_clip else rate * trust

    if recipe.classic_momentum:
        buffer = recipe.momentum * buffer + adapted(direction) * direction
        return weight - buffer, buffer, unused
    if recipe.trust_in_momentum:
        buffer = recipe.momentum * buffer + adapted(direction) / rate * direction
        return weight - rate * buffer, buffer, unused
    buffer = recipe.momentum * buffer + direction
    return weight - adapted(buffer) * buffer, buffer, unused


def _sgd(recipe: Optimizer, rate: float, number: int, gradient: Tensor, state: State) -> State:
    weight, buffer, unused = state
    buffer = recipe.momentum * buffer + gradient + recipe.weight_decay * weight
    return weight - rate * buffer, buffer, unused


def _moments(recipe: Optimizer, gradient: Tensor, state: State) -> tuple[Tensor, Tensor]:
    return recipe.momentum * state[1] + (1 - recipe.momentum) * gradient, 0.999 * state[2] + 0.001 * gradient**2


def _adamw(recipe: Optimizer, rate: float, number: int, gradient: Tensor, state: State) -> State:
    first, second = _moments(recipe, gradient, state)
    mean, square = first / (1 - recipe.momentum**number), second / (1 - 0.999**number)
    return state[0] - rate * (recipe.weight_decay * state[0] + mean / (square.sqrt() + 1e-8)), first, second


def _lamb(recipe: Optimizer, rate: float, number: int, gradient: Tensor, state: State) -> State:
    weight = state[0]
    first, second = _moments(recipe, gradient, state)
    step = first / (second.sqrt() + 1e-6) + recipe.weight_decay * weight
    adapts = weight.dim() > 1 and weight.norm() and step.norm()
    trust = float(weight.norm().clamp(max=10) / step.norm()) if adapts else 1.0
    return weight - rate * trust * step, first, second


_NAMES = {"lars": "LARS", "sgd": "SGD", "adamw": "AdamW", "lamb": "LAMB"}
_STEPS: dict[str, Step] = {"lars": _lars, "sgd": _sgd, "adamw": _adamw, "lamb": _lamb}
