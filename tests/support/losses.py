"""Losses as their papers write them down: the references that the fast ones are held against."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def plain_nt_xent(z_1: Tensor, z_2: Tensor, temperature: float) -> Tensor:
    """The definition, in one graph: cross-entropy of each row over all others."""
    z = F.normalize(torch.cat((z_1, z_2)), dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(similarity, torch.arange(len(z)).roll(len(z) // 2))
