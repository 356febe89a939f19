"""The parts that methods share, each against its plain reference: batch norm over groups, the LARS step."""

import torch

from simclr_dist.models.batch_norm import GroupedBatchNorm, average_running_statistics
from simclr_dist.verification import reference
from simclr_dist.verification.check import Check, largest, relative_error
from simclr_dist.verification.miniature import Miniature
from simclr_dist.verification.optimizer import optimizer_check


def part_checks(small: Miniature) -> list[Check]:
    """Batch norm on these processes, and the optimizer."""
    return [Check("grouped batch norm", _batch_norm(small), 1e-11), optimizer_check(small)]


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
