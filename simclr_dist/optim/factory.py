"""Optimizers by name, with biases and batch norm out of weight decay and adaptation."""

from collections.abc import Sequence

import torch
from torch import nn

from simclr_dist.config.recipe import Optimizer
from simclr_dist.optim.lamb import LAMB
from simclr_dist.optim.lars import LARS
from simclr_dist.optim.rates import Rate, parameter_groups


def make_optimizer(module: nn.Module, recipe: Optimizer, rates: Sequence[Rate] = ()) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trained parameters of ``module``; the learning rate is set before each step.

    ``rates`` are those of parameters that do not follow the schedule (:mod:`simclr_dist.optim.rates`).

    Raises:
        ValueError: unknown name.
    """
    groups = parameter_groups(module, recipe.weight_decay, rates)
    if recipe.name == "lars":
        return LARS(
            groups,
            lr=0.0,
            momentum=recipe.momentum,
            trust_coefficient=recipe.trust_coefficient,
            classic_momentum=recipe.classic_momentum,
            trust_in_momentum=recipe.trust_in_momentum,
            trust_clip=recipe.trust_clip,
        )
    if recipe.name == "lamb":
        return LAMB(groups, lr=0.0, betas=(recipe.momentum, 0.999))
    for group in groups:
        del group["adapt"]  # which torch's do not know
    if recipe.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, foreach=True)
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(recipe.momentum, 0.999))
    raise ValueError(f"unknown optimizer '{recipe.name}'")
