"""All checks of a recipe on the processes that are here, as a table."""

import math
from collections.abc import Sequence

import torch

from simclr_dist.config import Recipe
from simclr_dist.distributed.collectives import maximum
from simclr_dist.distributed.processes import Processes
from simclr_dist.verification.check import Check
from simclr_dist.verification.data import data_checks
from simclr_dist.verification.kernels import kernel_checks
from simclr_dist.verification.method import method_checks
from simclr_dist.verification.miniature import Miniature
from simclr_dist.verification.parts import part_checks


def certify(recipe: Recipe, processes: Processes, device: torch.device, precision: str = "float32") -> list[Check]:
    """The checks, on a :class:`Miniature` of the recipe; the error is the largest of any process. All call it.

    ``precision`` is the machine's: what kernels in float32 may round.
    """
    small = Miniature(recipe, processes, device)
    found = [*method_checks(small), *part_checks(small), *kernel_checks(small, precision), *data_checks(small)]
    # As numbers that every backend compares alike: float32, and not a number is the largest.
    errors = [check.error if math.isfinite(check.error) else 1e30 for check in found]
    together = maximum(errors, device, label="errors of the certificate")
    return [check._replace(error=error) for check, error in zip(found, together, strict=True)]


def table(checks: Sequence[Check], where: str) -> str:
    """The certificate as text."""
    lines = [f"{'':<22}{'error':>10}{'bound':>10}   {where}"]
    lines += [
        f"{check.name:<22}{check.error:>10.1e}{check.bound:>10.0e}   {'holds' if check.holds else 'FAILS'}"
        for check in checks
    ]
    return "\n".join(lines)
