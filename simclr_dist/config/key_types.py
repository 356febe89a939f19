"""What a dotted key of a config holds, as far as that is known before its method is loaded."""

import dataclasses
from typing import Any

from simclr_dist.config.health import Bands
from simclr_dist.config.machine import Machine
from simclr_dist.config.recipe import Recipe
from simclr_dist.config.views import ViewGroup


def type_of(key: str) -> type | None:
    """``dict`` for a key with keys below it, the type of a value, None where the method decides or there is no key."""
    if key in ("recipe", "machine", "health", "recipe.method", "recipe.views"):
        return dict
    part, _, name = key.partition(".")
    if part == "machine":
        return _in(Machine, name)
    if part == "health":
        _, dot, name = name.partition(".")
        return _in(Bands, name) if dot else dict
    if key.startswith("recipe.views."):
        *group, name = name.split(".")[1:]
        found = _in(ViewGroup, name)
        return dict if found is None and not group else found
    if key.startswith("recipe.method."):
        return str if key == "recipe.method.name" else None
    return _in(Recipe, name) if part == "recipe" else None


def _in(schema: Any, key: str) -> type | None:
    name, dot, rest = key.partition(".")
    kind = next((entry.type for entry in dataclasses.fields(schema) if entry.name == name), None)
    if dataclasses.is_dataclass(kind):
        return _in(kind, rest) if dot else dict
    return kind if not dot and isinstance(kind, type) else None
