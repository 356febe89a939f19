"""The parts that methods share, each against its plain reference: batch norm over groups, the LARS step."""

from dataclasses import replace

import torch

from simclr_dist.models.batch_norm import GroupedBatchNorm, average_running_statistics
from simclr_dist.optim import factory
from simclr_dist.verification import reference
from simclr_dist.verification.check import Check, largest, relative_error
from simclr_dist.verification.miniature import Miniature


def part_checks(small: Miniature) -> list[Check]:
    """Batch norm on these processes, and LARS."""
    return [Check("grouped batch norm", _batch_norm(small), 1e-11), Check("LARS step", _lars(small), 1e-12)]


def _batch_norm(small: Miniature) -> float:
    channels, rows = 6, 2 * small.group
    x, factors = 10 + small.random(2 * small.batch, channels, 3, 2), small.random(2 * small.batch, channels, 2, 3)
    norm = GroupedBatchNorm(channels, statistics=small.statistics()).to(small.device, torch.float64)
    own, whole = small.own(x).requires_grad_(), x.clone().requires_grad_()
    y = norm(own)
    (y * small.own(factors.transpose(2, 3))).sum().backward()
    average_running_statistics(norm)
    expected = reference.batch_norm(whole, rows, norm.weight.detach(), norm.bias.detach())
    (expected * factors.transpose(2, 3)).sum().backward()
    assert own.grad is not None
    assert whole.grad is not None
    assert norm.running_var is not None
    zeros = torch.zeros_like(norm.running_var)
    running = reference.running_statistics(x, rows, zeros, zeros + 1, 0.1)
    return largest(
        [
            relative_error(y, small.own(expected.detach())),
            relative_error(own.grad, small.own(whole.grad)),
            relative_error(norm.running_var, running["running_var"]),
        ]
    )


def _lars(small: Miniature) -> float:
    module = small.method()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradient = {name: small.random(*p.shape) for name, p in trained.items()}
    recipe = replace(small.recipe.optimizer, name="lars", classic_momentum=True, weight_decay=1e-4)
    rates = [0.1, 0.2, 0.15]
    expected = reference.lars_steps(
        module, gradient, rates, recipe.momentum, recipe.weight_decay, recipe.trust_coefficient
    )
    optimizer = factory.make_optimizer(module, recipe)
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in trained.items():
            parameter.grad = gradient[name].clone()
        optimizer.step()
    return largest([relative_error(p, expected[name]) for name, p in trained.items()])
