"""Recipes as versions before recipe.method stored them."""

from copy import deepcopy
from typing import Any


def as_stored_earlier(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of SimCLR, as a checkpoint of today holds it, with its keys where an earlier version had them."""
    old = deepcopy(recipe)
    method = old.pop("method")
    anomalies = old["anomalies"]
    anomalies["anchor_every_steps"] = anomalies.pop("rollback_every_steps")
    anomalies["collapse_embedding_std"] = anomalies.pop("collapse_below")
    views = old["views"]["global"]
    del views["count"], views["size"]
    return old | {
        "method": "simclr",
        "loss": {"temperature": method["temperature"], "scale": method["loss_scale"]},
        "projection": method["projection"],
        "views": views,
    }
