"""The table of all keys, from the dataclasses themselves: type, default, limits and the text under each field."""

import ast
import dataclasses
import inspect
import sys
import textwrap
from functools import cache
from typing import Any

from simclr_dist.config.fields import FOLLOWS
from simclr_dist.config.health import Bands
from simclr_dist.config.loading import leaves_of
from simclr_dist.config.recipe import Recipe
from simclr_dist.config.registry import method_keys
from simclr_dist.config.schema import Config
from simclr_dist.config.values import plain_number, takes_bands, takes_options


def explain(method: str = "simclr") -> str:
    """Every key with its type, default, limits and documentation, as text of at most 120 columns.

    Args:
        method: whose keys stand below recipe.method, whose groups below recipe.views, whose metrics below health.

    Raises:
        UserError: there is no such method.
    """
    lines = []
    for key, default, entry, owner in leaves_of(everything(method)):
        rule = f" ({FOLLOWS:g}: {entry.metadata['rule']})" if "rule" in entry.metadata else ""
        head = f"{key}: {_kind(entry)} = {default!r}{rule}{_limits(entry.metadata)}"
        lines += textwrap.wrap(head, 108, subsequent_indent="    ") if len(head) > 108 else [head]
        known = next((known for each in owner.__mro__ if entry.name in (known := _documentation(each))), {})
        text = known.get(entry.name, entry.name)
        lines += textwrap.wrap(text, 104, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def everything(method: str = "simclr") -> Config:
    """A config in which every key stands that a config of this method may have."""
    config = Config(recipe=Recipe(method=method_keys(method)))
    config.health = {name: Bands() for name, metric in config.metrics.items() if metric.band}
    return config


def _kind(entry: dataclasses.Field[Any]) -> str:
    if takes_bands(entry):
        return "{number: [low, high]}"
    if takes_options(entry):
        return "{name: value}"
    return str(getattr(entry.type, "__name__", entry.type)).replace("list", "list of numbers")


def _limits(limits: Any) -> str:
    if limits.get("choices"):
        return f"  (one of {', '.join(limits['choices'])})"
    words = {"low": "at least", "above": "above", "high": "at most"}
    parts = [f"{word} {plain_number(limits[name])}" for name, word in words.items() if limits.get(name) is not None]
    return f"  ({', '.join(parts)})" if parts else ""


@cache
def _documentation(owner: type) -> dict[str, str]:
    """Field -> the string literal that follows it in the source of its class. A field without any has its name."""
    found = {}
    try:
        tree = ast.parse(inspect.getsource(sys.modules[owner.__module__]))
    except (OSError, TypeError, KeyError):  # built in, or made where there is no file
        tree = ast.Module(body=[], type_ignores=[])
    path = owner.__qualname__.split(".")
    body: list[ast.stmt] = tree.body
    for name in path:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == name), [])
    for entry, text in zip(body, [*body, ast.Pass()][1:], strict=True):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            words = str(text.value.value) if is_text else entry.target.id  # type: ignore[attr-defined]
            found[entry.target.id] = " ".join(words.split())
    return found
