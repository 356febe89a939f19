"""Whether a state is finite."""

import math

import torch
from torch import Tensor


def first_not_finite(named: dict[str, Tensor]) -> str | None:
    """The name of the first tensor with a number that is not finite, such as of a ``state_dict``."""
    for name, tensor in named.items():
        # One pass and no copy; a sum of float32 in float64 is finite when all its terms are.
        if not math.isfinite(tensor.sum(dtype=torch.float64).item()):
            return name
    return None
