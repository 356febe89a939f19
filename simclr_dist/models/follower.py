"""Networks that are not trained by gradients but follow one that is: the keys' encoder of MoCo, a teacher."""

import torch
from torch import nn


def start_as(follower: nn.Module, leader: nn.Module) -> None:
    """Give a network of the same kind the leader's weights and statistics, and keep gradients from it."""
    follower.load_state_dict(leader.state_dict())
    follower.requires_grad_(False)


def follow(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Parameters become momentum * themselves + (1 - momentum) * the leader's (He et al. 2020, equation 2).

    Buffers stay: running statistics are those of the follower's own batches.
    """
    own, others = ([parameter.detach() for parameter in each.parameters()] for each in (follower, leader))
    torch._foreach_mul_(own, momentum)
    torch._foreach_add_(own, others, alpha=1 - momentum)
