"""What a method's class says of itself, looked at before anything is built: keys, metrics, groups of views."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NoReturn, get_type_hints

from simclr_dist.config.about import About
from simclr_dist.config.method import MethodKeys
from simclr_dist.config.metric import Metric
from simclr_dist.config.views import ViewGroup
from simclr_dist.errors import UserError, first_line

_TYPES = (int, float, bool, str)
_NEEDS = frozenset({"labels", "masks", "geometry", "color", "time"})


def check_method_class(name: str, found: Any) -> None:
    """Refuse a class that a recipe cannot name; the fields of its ``Config`` have their types afterwards.

    Raises:
        UserError: what is wrong with ``Config``, METRICS, needs or views().
    """
    keys = found.Config
    if not issubclass(keys, MethodKeys):
        _refuse(name, "Config must be made from simclr_dist.methods.base.MethodKeys")
    _check_keys(name, "Config", keys)
    try:
        own = keys(name=name)
    except Exception as error:  # its own __post_init__, say
        _refuse(name, f"Config cannot be made of its defaults: {type(error).__name__}: {first_line(error)}", error)
    _check_metrics(name, found.METRICS)
    if unknown := sorted(set(found.needs) - _NEEDS):
        _refuse(name, f"needs has '{unknown[0]}'; there is {', '.join(sorted(_NEEDS))}")
    if not isinstance(getattr(found, "ABOUT", None), About | None):
        _refuse(name, "ABOUT must be an About (simclr_dist.methods.base), or None")
    for method in ("views", "check", "sides"):
        if not inspect.ismethod(getattr(found, method)):
            _refuse(name, f"{method}() must be a classmethod; write @classmethod above it")
    try:
        groups = found.views(own)
    except Exception as error:
        _refuse(name, f"views() fails: {type(error).__name__}: {first_line(error)}", error)
    if not (isinstance(groups, dict) and groups and all(isinstance(group, ViewGroup) for group in groups.values())):
        _refuse(name, "views() must return a dict of names -> ViewGroup, with one at least")


def _check_keys(name: str, label: str, schema: Any) -> None:
    """Every key with a default and of a type that a value of YAML can be checked against."""
    if set(inspect.get_annotations(schema)) - set(schema.__dataclass_fields__):  # those of its base, without its own
        _refuse(name, f"{label} is no dataclass; write @dataclass(kw_only=True) above it")
    try:
        # The types instead of the words for them (from __future__ import annotations).
        hints = get_type_hints(schema)
    except Exception as error:
        _refuse(name, f"the types of {label} are not known: {first_line(error)}", error)
    for entry in dataclasses.fields(schema):
        entry.type = hints[entry.name]
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            _refuse(name, f"{label}.{entry.name} has no default; a recipe may leave every key out")
        if dataclasses.is_dataclass(entry.type):
            _check_keys(name, f"{label}.{entry.name}", entry.type)
        elif entry.type not in _TYPES:
            kind = entry.type.__name__ if isinstance(entry.type, type) else entry.type
            _refuse(
                name,
                f"{label}.{entry.name} is {kind}; a key is {', '.join(each.__name__ for each in _TYPES)}, or a "
                "dataclass of such keys",
            )


def _check_metrics(name: str, metrics: Any) -> None:
    if not isinstance(metrics, Mapping) or not all(isinstance(metric, Metric) for metric in metrics.values()):
        _refuse(name, "METRICS must be a dict of names -> Metric (simclr_dist.methods.base)")
    if "loss" in metrics:
        _refuse(name, "METRICS has 'loss', which every method has; leave it out there")
    for role in ("headline", "collapse"):
        if len(of_role := [key for key, metric in metrics.items() if metric.role == role]) > 1:
            _refuse(name, f"METRICS has two of the role '{role}', {' and '.join(of_role[:2])}; one at most")


def _refuse(name: str, why: str, error: Exception | None = None) -> NoReturn:
    raise UserError(f"recipe.method.name: '{name}': {why} (docs/methods.md)") from error
