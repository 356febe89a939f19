"""Optimizers by name, with biases and batch norm out of weight decay and adaptation."""

from typing import Any

import torch
from torch import nn

from simclr_dist.config.recipe import Optimizer
from simclr_dist.optim.lars import LARS


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels, with decay and adaptation; vectors (biases, batch norm), with neither."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay, "adapt": True},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0, "adapt": False},
    ]


def make_optimizer(module: nn.Module, recipe: Optimizer) -> torch.optim.Optimizer:
    """The recipe's optimizer over the parameters of ``module``; the learning rate is set before each step.

    Raises:
        ValueError: unknown name.
    """
    groups = parameter_groups(module, recipe.weight_decay)
    if recipe.name == "lars":
        return LARS(
            groups,
            lr=0.0,
            momentum=recipe.momentum,
            trust_coefficient=recipe.trust_coefficient,
            classic_momentum=recipe.classic_momentum,
        )
    for group in groups:
        del group["adapt"]  # LARS's own
    if recipe.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, foreach=True)
    if recipe.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(recipe.momentum, 0.999))
    if recipe.name == "lamb":
        from torch_optimizer import Lamb

        # It refuses a rate of 0 at construction only; the schedule sets every step's.
        return Lamb(groups, lr=1.0, betas=(recipe.momentum, 0.999))
    raise ValueError(f"unknown optimizer '{recipe.name}'")
