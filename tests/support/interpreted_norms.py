"""Batch norm's programs for a GPU in Triton's interpreter: a process of its own, as Triton reads TRITON_INTERPRET when
it is imported.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from simclr_dist.models import batch_norm, batch_norm_function, batch_norm_triton
from simclr_dist.models.batch_norm import GroupedBatchNorm
from simclr_dist.models.statistics_group import StatisticsGroup


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


def rectified(case: Case, *, in_one_pass: bool) -> dict[str, Tensor]:
    """``relu(norm(x) + added)`` and its gradients by Triton's programs: with offset and ``added``, and without."""
    x, grad, weight, bias, sums = case
    found: dict[str, Tensor] = {}
    for form, has_bias, has_added in [
        ("whole", True, True),
        ("no offset", False, False),
        ("nothing added", True, False),
    ]:
        norm = GroupedBatchNorm(x.shape[1], bias=has_bias, statistics=StatisticsGroup(sums.shape[1]))
        norm = norm.to(x.device, weight.dtype)
        given = {"x": x.clone().requires_grad_(), "gain": norm.weight}
        given |= {"offset": norm.bias} if has_bias else {}
        given |= {"added": (grad - 0.5).requires_grad_()} if has_added else {}
        with torch.no_grad():
            norm.weight.copy_(weight)
            if has_bias:
                norm.bias.copy_(bias)
        with (
            patch.object(batch_norm, "rectifies", lambda *_: in_one_pass),
            patch.object(batch_norm, "serves_by_torch", lambda _: False),
            patch.object(batch_norm_function, "kernels_for", lambda _: batch_norm_triton),
        ):
            y = norm(given["x"], given.get("added"), rectified=True)
            y.backward(grad)
        found[f"{form}: output"] = y.detach()
        found |= {f"{form}: gradient of {name}": tensor.grad for name, tensor in given.items()}
    return found


def interpreted(cases: dict[str, Case], of_rectified: list[str], folder: Path) -> dict[str, dict[str, Tensor]]:
    """:func:`made` by the interpreted programs, by name, and :func:`rectified`, in one pass and in three, of some."""
    torch.save(({name: tuple(case) for name, case in cases.items()}, of_rectified), folder / "cases.pt")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-m", __name__, folder], env=environment, check=True)
    found: dict[str, dict[str, Tensor]] = torch.load(folder / "made.pt")
    return found


def _answer(folder: Path) -> None:
    cases, of_rectified = torch.load(folder / "cases.pt")
    found = {name: made(batch_norm_triton, Case(*case)) for name, case in cases.items()}
    for name in of_rectified:
        for way in (True, False):
            found[f"{name}, rectified, {way}"] = rectified(Case(*cases[name]), in_one_pass=way)
    torch.save(found, folder / "made.pt")


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))
