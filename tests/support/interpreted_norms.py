"""Batch norm's programs for a GPU in Triton's interpreter: a process of its own, as Triton reads TRITON_INTERPRET when
it is imported.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simclr_dist.models import batch_norm_triton


class Case(NamedTuple):
    """What batch norm is given; ``sums`` are (2, groups, channels), as of groups that have rows elsewhere too."""

    x: Tensor
    grad: Tensor
    weight: Tensor
    bias: Tensor
    sums: Tensor


def made(kernels: Any, case: Case, count: int = 100, eps: float = 1e-5) -> dict[str, Tensor]:
    """All that a device's kernels make of it; ``count``: elements of a channel in a group."""
    x, grad, weight, bias, sums = case
    mean, variance = kernels.statistics(x, sums.shape[1])
    inverse = torch.rsqrt(variance + eps)
    sum_grad, sum_grad_x = kernels.gradient_sums(grad, x, mean, inverse, weight)
    return {
        "mean": mean, "variance": variance, "sum of gradients": sum_grad, "and rows": sum_grad_x,
        "output": kernels.normalise(x, weight, bias, mean, inverse, eps),
        "output without offset": kernels.normalise(x, weight, None, mean, inverse, eps),
        "input gradient": kernels.input_gradient(grad, x, mean, inverse, weight, sums[0], sums[1], count),
    }  # fmt: skip


def interpreted(cases: dict[str, Case], folder: Path) -> dict[str, dict[str, Tensor]]:
    """:func:`made` by the interpreted programs, by name."""
    torch.save({name: tuple(case) for name, case in cases.items()}, folder / "cases.pt")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-m", __name__, folder], env=environment, check=True)
    found: dict[str, dict[str, Tensor]] = torch.load(folder / "made.pt")
    return found


def _answer(folder: Path) -> None:
    cases = torch.load(folder / "cases.pt")
    torch.save({name: made(batch_norm_triton, Case(*case)) for name, case in cases.items()}, folder / "made.pt")


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
