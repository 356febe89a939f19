"""From nested keys to the dataclasses of a config: unknown ones are refused with the nearest that are known."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from simclr_dist.config.health import Bands
from simclr_dist.config.machine import Machine
from simclr_dist.config.metric import ONLINE
from simclr_dist.config.moved import moved_keys
from simclr_dist.config.recipe import Recipe
from simclr_dist.config.registry import METHODS, method_class, method_keys
from simclr_dist.config.values import checked, takes_keys
from simclr_dist.config.views import ViewGroup
from simclr_dist.errors import UserError, nearest

Node = TypeVar("Node")
_PARTS = ("recipe", "machine", "health")
_UNION = ("method", "views")  # of a recipe: their keys depend on the method's name


def refuse_config(given: dict[str, Any], where: str) -> None:
    """Unknown keys, keys where a value belongs and the other way round, and keys left open; ``where`` they stand.

    Raises:
        UserError: naming the key and the nearest known one.
    """
    _refuse_unknown(given, _PARTS, where, "")
    _refuse_shape(_keys_below(given, "machine", where), Machine, where, "machine.")
    recipe, health = _keys_below(given, "recipe", where), _keys_below(given, "health", where)
    refuse_recipe(recipe, where)
    metrics = method_class(method_name(recipe)).METRICS
    may = [name for name, metric in {**metrics, **ONLINE}.items() if metric.band]
    _refuse_unknown(health, may, where, "health.")
    for name in health:
        _refuse_shape(_keys_below(health, name, where, "health."), Bands, where, f"health.{name}.")


def refuse_recipe(given: dict[str, Any], where: str) -> None:
    """The same of a recipe alone."""
    if moved := moved_keys(given):
        told = ", ".join(f"recipe.{old} is now recipe.{new}" for old, new in moved)
        raise UserError(f"{where}: written for an earlier version: {told}")
    rest = {key: value for key, value in given.items() if key not in _UNION}
    _refuse_shape(rest, Recipe, where, "recipe.")
    keys = _keys_below(given, "method", where, "recipe.")
    schema = method_class(method_name(given)).Config
    _refuse_shape(keys, schema, where, "recipe.method.")
    _refuse_views(_keys_below(given, "views", where, "recipe."), _groups(given), where)


def method_name(recipe: Mapping[str, Any]) -> str:
    """The name of the method that a recipe's nested keys ask for."""
    keys = recipe.get("method")
    name = keys.get("name", "simclr") if isinstance(keys, dict) else "simclr"
    if not isinstance(name, str):
        raise UserError(f"recipe.method.name: {name!r} is not one of {', '.join(METHODS)} and no package.module:Class")
    return name


def fill_recipe(given: dict[str, Any]) -> Recipe:
    """The recipe of nested keys, each checked against its field.

    Raises:
        UserError: naming the key: another type, not finite, not a choice or out of range.
    """
    found = method_class(method_name(given))
    method = filled(found.Config, {"name": method_name(given), **given.get("method", {})}, "recipe.method.")
    rest = {key: value for key, value in given.items() if key not in _UNION}
    return filled(Recipe, rest, "recipe.", method=method, views=_views(found.views(method), given.get("views", {})))


def filled(schema: type[Node], given: dict[str, Any], prefix: str = "", **ready: Any) -> Node:
    """``schema`` with the given values, each checked against its field, and with those that are ``ready``.

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


def _views(defaults: dict[str, ViewGroup], given: dict[str, Any]) -> dict[str, ViewGroup]:
    """The method's groups, a key directly under ``views`` in every one of them, and each group's own keys."""
    shared = {key: value for key, value in given.items() if key not in defaults}
    return {
        name: filled(
            ViewGroup,
            {**shared, **given.get(name, {})},
            f"recipe.views.{name}.",
            **{key: value for key, value in vars(default).items() if key not in {**shared, **given.get(name, {})}},
        )
        for name, default in defaults.items()
    }


def _groups(recipe: dict[str, Any]) -> Iterable[str]:
    """The names of the method's groups. They may depend on its keys; a key out of range is told when it is filled."""
    name = method_name(recipe)
    try:
        return method_class(name).views(filled(method_class(name).Config, {"name": name, **recipe.get("method", {})}))
    except (UserError, TypeError):
        return method_class(name).views(method_keys(name))


def _refuse_views(given: dict[str, Any], groups: Iterable[str], where: str) -> None:
    own = {key: value for key, value in given.items() if key in groups}
    shared = {key: value for key, value in given.items() if key not in groups}
    for key, value in shared.items():
        if isinstance(value, dict):
            raise UserError(
                f"{where}: recipe.views.{key}: the method has no group of views of that name"
                f"{nearest(key, list(groups))}; its groups: {', '.join(groups)}"
            )
    _refuse_shape(shared, ViewGroup, where, "recipe.views.")
    for name in own:
        _refuse_shape(_keys_below(own, name, where, "recipe.views."), ViewGroup, where, f"recipe.views.{name}.")


def _keys_below(given: dict[str, Any], key: str, where: str, prefix: str = "") -> dict[str, Any]:
    value = given.get(key, {})
    if not isinstance(value, dict):
        raise UserError(f"{where}: {prefix}{key}: expected keys below it, got {value!r}")
    return value


def _refuse_unknown(given: dict[str, Any], known: Iterable[str], where: str, prefix: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{where}: unknown key '{prefix}{key}'{_hint(str(key), list(known))}")


def _refuse_shape(given: dict[str, Any], schema: Any, where: str, prefix: str) -> None:
    known = {entry.name: entry for entry in dataclasses.fields(schema)}
    _refuse_unknown(given, known, where, prefix)
    for key, value in given.items():
        name = f"{prefix}{key}"
        if value == "???":
            raise UserError(f"{where}: {name}: has no value; give it one")
        if dataclasses.is_dataclass(known[key].type):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {name}: expected keys below it, got {value!r}")
            _refuse_shape(value, known[key].type, where, f"{name}.")
        elif isinstance(value, dict) != takes_keys(known[key]):
            checked(name, value, known[key])  # says what belongs there instead


def _hint(key: str, known: list[str]) -> str:
    everywhere = [
        *_dotted(Recipe(), "recipe."),
        *_dotted(ViewGroup(), "recipe.views."),
        *_dotted(Machine(), "machine."),
    ]
    elsewhere = [dotted for dotted in everywhere if dotted.rpartition(".")[2] == key]
    if elsewhere:
        return f" (did you mean '{elsewhere[0]}'?)"
    return nearest(key, known) or nearest(key, everywhere) or f"; known here: {', '.join(known)}"


def _dotted(node: Any, prefix: str) -> list[str]:
    """The dotted keys below a dataclass of the config."""
    keys = []
    for entry in dataclasses.fields(node):
        value = getattr(node, entry.name)
        inner = dataclasses.is_dataclass(value)
        keys += _dotted(value, f"{prefix}{entry.name}.") if inner else [f"{prefix}{entry.name}"]
    return keys
