"""Keys of earlier versions and where they are now: told in a config, carried over in what a checkpoint holds."""

from copy import deepcopy
from typing import Any

MOVED = {
    "loss.temperature": "method.temperature",
    "loss.scale": "method.loss_scale",
    "projection.layers": "method.projection.layers",
    "projection.hidden_dim": "method.projection.hidden_dim",
    "projection.output_dim": "method.projection.output_dim",
    "projection.batch_norm": "method.projection.batch_norm",
    "anomalies.anchor_every_steps": "anomalies.rollback_every_steps",
    "anomalies.collapse_embedding_std": "anomalies.collapse_below",
}
"""Below ``recipe``: old key -> new key. They belonged to SimCLR, the only method there was."""

_VIEWS_UNTIL_NOW = {"interpolation": "bilinear"}
"""Below a group of views: what versions did that had not these keys, where methods have other defaults by now."""


def moved_keys(recipe: Any) -> list[tuple[str, str]]:
    """(old key, its new place) of every key of an earlier version that a recipe's nested keys hold."""
    if not isinstance(recipe, dict):
        return []
    found = [(old, new) for old, new in MOVED.items() if _has(recipe, old.split("."))]
    if isinstance(recipe.get("method"), str):
        found.insert(0, ("method", "method.name"))
    return found


def migrated(recipe: dict[str, Any]) -> dict[str, Any]:
    """A stored recipe of an earlier version with its keys in their new places; a recipe of this version as it is."""
    views = recipe.get("views")
    if isinstance(views, dict):
        groups = {name: _VIEWS_UNTIL_NOW | own for name, own in views.items() if isinstance(own, dict)}
        recipe = recipe | {"views": views | groups}
    keys = moved_keys(recipe)
    if not keys:
        return recipe
    new = deepcopy(recipe)
    for old, place in keys:
        *path, last = old.split(".")
        node = new
        for part in path:
            node = node[part]
        value = node.pop(last)
        *path, last = place.split(".")
        node = new
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                return recipe  # no version wrote it: refused as it is
        node[last] = value
    return {name: part for name, part in new.items() if name not in ("loss", "projection") or part}


def _has(node: Any, path: list[str]) -> bool:
    for part in path:
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True
