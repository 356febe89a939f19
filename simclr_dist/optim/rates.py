"""Parameters whose learning rate is not the schedule's: frozen for a while, constant, or a multiple of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a rate is asked for."""

    step: int
    """Of the run, counted from 0."""
    steps: int
    """Of the whole run."""
    steps_per_epoch: int
    scheduled: float
    """The schedule's rate of this step."""
    peak: float
    """The schedule's rate after the warm-up."""


@dataclass(frozen=True)
class Rate:
    """A rate of some parameters' own, a function of the step."""

    matches: Callable[[str, nn.Parameter], bool]
    """Of a parameter's name in the method and itself; a parameter takes the first rate that matches it."""
    of: Callable[[Moment], float | None]
    """The rate. None: frozen, the step leaves the parameters, their momentum and their decay alone."""


def set_rates(optimizer: torch.optim.Optimizer, rates: Sequence[Rate], moment: Moment) -> None:
    """Give every parameter group its rate for a step; what is frozen loses its gradient, and no optimizer moves it."""
    for group in optimizer.param_groups:
        number = group.get("rate")
        own = moment.scheduled if number is None else rates[number].of(moment)
        group["lr"] = 0.0 if own is None else own
        if own is None:
            for parameter in group["params"]:
                parameter.grad = None


def rate_of(rates: Sequence[Rate], name: str, parameter: nn.Parameter) -> int | None:
    """The number of the rate that a parameter takes; None: the schedule's."""
    return next((number for number, rate in enumerate(rates) if rate.matches(name, parameter)), None)


def parameter_groups(module: nn.Module, weight_decay: float, rates: Sequence[Rate] = ()) -> list[dict[str, Any]]:
    """The trained parameters of a module in groups of one rate each: matrices and kernels, with decay and adaptation;
    vectors (biases, batch norm), with neither."""
    groups = []
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    for number in (None, *range(len(rates))):
        own = [p for name, p in parameters if rate_of(rates, name, p) == number]
        rate = {} if number is None else {"rate": number}
        groups += [
            {"params": [p for p in own if p.dim() > 1], "weight_decay": weight_decay, "adapt": True, **rate},
            {"params": [p for p in own if p.dim() <= 1], "weight_decay": 0.0, "adapt": False, **rate},
        ]
    return groups
