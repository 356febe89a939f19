"""From nested keys to the dataclasses of a config: unknown ones are refused with the nearest that are known.

What needs no method is refused before the recipe's method is loaded, which takes seconds (it imports torch). Errors
name the key; whose it is (a file's, a checkpoint's) the caller puts before it.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from simclr_dist.config.health import Bands
from simclr_dist.config.machine import Machine
from simclr_dist.config.metric import EVERY_METHOD
from simclr_dist.config.moved import moved_keys
from simclr_dist.config.recipe import Recipe
from simclr_dist.config.registry import METHODS, method_class
from simclr_dist.config.values import checked
from simclr_dist.config.views import ViewGroup
from simclr_dist.errors import UserError, nearest

Node = TypeVar("Node")
_PARTS = ("recipe", "machine", "health")
_UNION = ("method", "views")  # of a recipe: their keys depend on the method's name
_VIEW_KEYS = [entry.name for entry in dataclasses.fields(ViewGroup)]


def refuse_config(given: dict[str, Any]) -> None:
    """Unknown keys, keys where a value belongs and the other way round, values that do not fit, keys left open.

    A value with an interpolation (``${recipe.epochs}``), and what stands below views, is looked at when it is filled.

    Raises:
        UserError: naming the key and the nearest known one.
    """
    _refuse_unknown(given, _PARTS, "")
    refuse_shape(_keys_below(given, "machine"), Machine, "machine.")
    recipe, health = _keys_below(given, "recipe"), _keys_below(given, "health")
    _refuse_without_method(recipe)
    for name in health:
        refuse_shape(_keys_below(health, name, "health."), Bands, f"health.{name}.")
    _refuse_method_keys(recipe)
    metrics = {**method_class(method_name(recipe)).METRICS, **EVERY_METHOD}
    _refuse_unknown(health, [name for name, metric in metrics.items() if metric.band], "health.")


def refuse_recipe(given: dict[str, Any]) -> None:
    """The same of a recipe alone."""
    _refuse_without_method(given)
    _refuse_method_keys(given)


def method_name(recipe: Mapping[str, Any]) -> str:
    """The name of the method that a recipe's nested keys ask for."""
    keys = recipe.get("method")
    name = keys.get("name", "simclr") if isinstance(keys, dict) else "simclr"
    if not isinstance(name, str):
        raise UserError(f"recipe.method.name: {name!r} is not one of {', '.join(METHODS)} and no package.module:Class")
    if "${" in name:
        raise UserError(
            f"recipe.method.name: '{name}': nothing is filled in here, as the name decides which keys there are; write "
            "the name itself, or give recipe.method.name=NAME on the command line"
        )
    return name


def fill_recipe(given: dict[str, Any]) -> Recipe:
    """The recipe of nested keys, each checked against its field.

    Raises:
        UserError: naming the key: another type, not finite, not a choice or out of range; or an unknown key of views.
    """
    name = method_name(given)
    found = method_class(name)
    method = filled(found.Config, {"name": name, **given.get("method", {})}, "recipe.method.")
    rest = {key: value for key, value in given.items() if key not in _UNION}
    views = _views(name, found.views(method), given.get("views", {}))
    return filled(Recipe, rest, "recipe.", method=method, views=views)


def filled(schema: type[Node], given: dict[str, Any], prefix: str = "", **ready: Any) -> Node:
    """``schema`` with those values that are ``ready`` and, before these, the given ones, each checked.

    Raises:
        UserError: naming the key.
    """
    values = dict(ready)
    for entry in dataclasses.fields(schema):  # type: ignore[arg-type]
        if entry.name in given:
            name, value = f"{prefix}{entry.name}", given[entry.name]
            is_branch = dataclasses.is_dataclass(entry.type)
            values[entry.name] = filled(entry.type, value, f"{name}.") if is_branch else checked(name, value, entry)  # type: ignore[arg-type]
    return schema(**values)


def _views(method: str, defaults: dict[str, ViewGroup], given: dict[str, Any]) -> dict[str, ViewGroup]:
    """The method's groups, a key directly under ``views`` in every one of them, and each group's own keys."""
    if ambiguous := [name for name in defaults if name in _VIEW_KEYS]:
        raise UserError(
            f"recipe.method.name: '{method}': its group of views '{ambiguous[0]}' is named like a key of views; it "
            "needs another name (docs/methods.md)"
        )
    shared = {key: value for key, value in given.items() if key not in defaults}
    for key, value in shared.items():
        if isinstance(value, dict) and key not in _VIEW_KEYS:
            raise UserError(
                f"recipe.views.{key}: {method} has no group of views of that name{nearest(str(key), list(defaults))}; "
                f"its groups: {', '.join(defaults)}"
            )
    _refuse_unknown(shared, [*_VIEW_KEYS, *defaults], "recipe.views.")
    refuse_shape(shared, ViewGroup, "recipe.views.")
    groups = {}
    for name, default in defaults.items():
        own = _keys_below(given, name, "recipe.views.")
        refuse_shape(own, ViewGroup, f"recipe.views.{name}.")
        groups[name] = filled(ViewGroup, {**shared, **own}, f"recipe.views.{name}.", **vars(default))
    return groups


def _refuse_without_method(recipe: dict[str, Any]) -> None:
    if moved := moved_keys(recipe):
        places = ", ".join(f"recipe.{old} is now recipe.{new}" for old, new in moved)
        raise UserError(f"written for an earlier version: {places}")
    refuse_shape({key: value for key, value in recipe.items() if key not in _UNION}, Recipe, "recipe.")
    for key in _UNION:
        _keys_below(recipe, key, "recipe.")


def _refuse_method_keys(recipe: dict[str, Any]) -> None:
    schema = method_class(method_name(recipe)).Config
    refuse_shape(recipe.get("method", {}), schema, "recipe.method.", _dotted(schema, "recipe.method."))


def _keys_below(given: dict[str, Any], key: str, prefix: str = "") -> dict[str, Any]:
    value = given.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{prefix}{key}: expected keys below it, got {value!r}")
    return value


def _refuse_unknown(given: dict[str, Any], known: Iterable[str], prefix: str, more: Iterable[str] = ()) -> None:
    """``more``: dotted keys beside those of every config, from which the nearest may come."""
    for key in given:
        if key not in known:
            raise UserError(f"unknown key '{prefix}{key}'{_hint(str(key), list(known), list(more))}")


def refuse_shape(given: dict[str, Any], schema: Any, prefix: str, more: Iterable[str] = ()) -> None:
    """Refuse keys that a dataclass of the config does not have, and values that do not fit their fields.

    Raises:
        UserError: naming the key.
    """
    known = {entry.name: entry for entry in dataclasses.fields(schema)}
    _refuse_unknown(given, known, prefix, more)
    for key, value in given.items():
        if value == "???":
            raise UserError(f"{prefix}{key}: has no value; give it one")
        if dataclasses.is_dataclass(known[key].type):
            refuse_shape(_keys_below(given, key, prefix), known[key].type, f"{prefix}{key}.", more)
        elif "${" not in str(value):
            checked(f"{prefix}{key}", value, known[key])


def _hint(key: str, known: list[str], more: list[str]) -> str:
    everywhere = [
        *more,
        *_dotted(Recipe, "recipe."),
        *_dotted(ViewGroup, "recipe.views."),
        *_dotted(Machine, "machine."),
    ]
    elsewhere = [dotted for dotted in everywhere if dotted.rpartition(".")[2] == key]
    if elsewhere:
        return f" (did you mean '{elsewhere[0]}'?)"
    return nearest(key, known) or nearest(key, everywhere) or f"; known here: {', '.join(known)}"


def _dotted(schema: Any, prefix: str) -> list[str]:
    """The dotted keys of a dataclass of the config; below views it depends on the method which there are."""
    keys = []
    for entry in dataclasses.fields(schema):
        if dataclasses.is_dataclass(entry.type):
            keys += _dotted(entry.type, f"{prefix}{entry.name}.")
        elif entry.name not in _UNION:
            keys.append(f"{prefix}{entry.name}")
    return keys
