"""What a checkpoint of a run holds, and whether one is of the run that would resume from it."""

from pathlib import Path
from typing import Any

from simclr_dist.config import Recipe, to_dict
from simclr_dist.data.sources.base import ImageSource
from simclr_dist.data.sources.identity import compare
from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.run.same_recipe import differences, refuse_other

REQUIRED = ("model", "optimizer", "scaler", "recipe", "images")
"""Whatever else a checkpoint of an earlier version lacks is as at the start."""


def contents(state_of: dict[str, Any], recipe: Recipe, images: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint of a run holds, but for its step.

    Args:
        state_of: name -> module, optimizer, ..., each with ``state_dict``.
        recipe: of the run.
        images: what :func:`images_of` says of them.
    """
    states = {name: target.state_dict() for name, target in state_of.items()}
    return states | {"recipe": to_dict(recipe), "images": images}


def refuse_incomplete(path: Path, state: dict[str, Any]) -> None:
    """Raise a UserError when a checkpoint is of something else than a pretraining run."""
    if missing := [name for name in REQUIRED if name not in state]:
        raise UserError(
            f"{path}: not of a pretraining run, as it holds no {' and no '.join(missing)}; choose another "
            "machine.run_dir"
        )


def refuse_other_run(
    path: Path, state: dict[str, Any], recipe: Recipe, images: dict[str, Any], source: ImageSource
) -> None:
    """Raise a UserError when a checkpoint is of another recipe, or of images that are not those of ``source``."""
    differing, remark = differences(state["recipe"], recipe), ""
    if not differing:
        other, remark = compare(state["images"], images, source)
        differing = [other] * bool(other)
    refuse_other(path, differing, state["recipe"], recipe)
    if remark:
        log.info("%s: %s", recipe.data.path, remark)


def digest_in(recipe: dict[str, Any]) -> str:
    """Of the initial weights, in a stored recipe; "" where it began with random ones."""
    initial = recipe.get("initial")
    return str(initial.get("sha256", "")) if isinstance(initial, dict) else ""
