"""The table of all keys, from the dataclasses themselves: type, default, limits and the text under each field."""

import ast
import dataclasses
import inspect
import textwrap
from functools import cache
from typing import Any

from simclr_dist.config import anomalies, health, machine, recipe
from simclr_dist.config.loading import fields_of
from simclr_dist.config.schema import Config
from simclr_dist.config.values import plain_number, takes_keys


def explain() -> str:
    """Every key with its type, default, limits and documentation, as text of at most 110 columns."""
    lines = []
    for key, default, entry in fields_of(Config()):
        lines.append(f"{key}: {_kind(entry)} = {default!r}{_limits(entry.metadata)}")
        lines += textwrap.wrap(
            _documentation()[key.rpartition(".")[2], _owner(key)], 104, initial_indent="    ", subsequent_indent="    "
        )
    return "\n".join(lines)


def _kind(entry: dataclasses.Field[Any]) -> str:
    if takes_keys(entry):
        return "{number: [low, high]}"
    return str(getattr(entry.type, "__name__", entry.type)).replace("list", "list of numbers")


def _owner(key: str) -> str:
    """The dataclass that holds ``key``: recipe.data.path is a field of Data."""
    owner: Any = Config
    for part in key.split(".")[:-1]:
        owner = owner.__dataclass_fields__[part].type
    return str(owner.__name__)


def _limits(limits: Any) -> str:
    if limits.get("choices"):
        return f"  (one of {', '.join(limits['choices'])})"
    words = {"low": "at least", "above": "above", "high": "at most"}
    parts = [f"{word} {plain_number(limits[name])}" for name, word in words.items() if limits.get(name) is not None]
    return f"  ({', '.join(parts)})" if parts else ""


@cache
def _documentation() -> dict[tuple[str, str], str]:
    """(field, class) -> the string literal that follows the field in the source."""
    found = {}
    modules = (recipe, anomalies, machine, health)
    for node in (node for module in modules for node in ast.parse(inspect.getsource(module)).body):
        if not isinstance(node, ast.ClassDef):
            continue
        for entry, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(entry, ast.AnnAssign)
                and isinstance(entry.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[entry.target.id, node.name] = " ".join(str(text.value.value).split())
    return found
