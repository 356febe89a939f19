"""What a check is: the error that was found and the bound that it must keep."""

from typing import NamedTuple

import torch
from torch import Tensor


class Check(NamedTuple):
    """One promise of the project, tried."""

    name: str
    error: float
    bound: float

    @property
    def holds(self) -> bool:
        """Not a number is no pass either."""
        return self.error <= self.bound


def relative_error(value: Tensor, expected: Tensor, floor: float = 1e-300) -> float:
    """|value - expected| / |expected|, over all elements: a wrong scale shows as well as a wrong direction.

    ``floor``: what is divided by at least, for numbers that are nothing but rounding.
    """
    value, expected = value.detach().double(), expected.detach().double()
    if value.shape != expected.shape:
        return float("inf")
    return float((value - expected).norm() / expected.norm().clamp_min(floor))


def largest(errors: list[float]) -> float:
    """The largest of some errors, not a number if one of them is; 0 of none."""
    return float(torch.tensor([0.0, *errors], dtype=torch.float64).max())
