"""Networks that are not trained by gradients but follow one that is: the keys' encoder of MoCo, a teacher."""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def follower_of(leader: Network) -> Network:
    """A copy with weights and statistics of its own, which no gradient reaches."""
    return copy.deepcopy(leader).requires_grad_(False)


def rising_momentum(first: float, step: int, steps: int) -> float:
    """The momentum of a step: ``first`` at step 0, 1 at the end, half a cosine between (Grill et al. 2020)."""
    return 1 - (1 - first) * (1 + math.cos(math.pi * step / steps)) / 2


def follow(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Parameters become momentum * themselves + (1 - momentum) * the leader's (He et al. 2020, equation 2).

    Buffers stay: running statistics are those of the follower's own batches.
    """
    own, others = ([parameter.detach() for parameter in each.parameters()] for each in (follower, leader))
    torch._foreach_mul_(own, momentum)
    torch._foreach_add_(own, others, alpha=1 - momentum)
