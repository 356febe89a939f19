"""The table of all keys, from the dataclasses themselves: type, default, limits and the text under each field."""

import ast
import inspect
import textwrap
from functools import cache
from typing import Any

from simclr_dist.config import schema
from simclr_dist.config.loading import fields_of, plain_number


def explain() -> str:
    """Every key with its type, default, limits and documentation, as text of at most 110 columns."""
    lines = []
    for key, default, entry in fields_of(schema.Config()):
        kind = getattr(entry.type, "__name__", str(entry.type)) if not isinstance(default, list) else "list of numbers"
        lines.append(f"{key}: {kind} = {default!r}{_limits(entry.metadata)}")
        lines += textwrap.wrap(
            _documentation()[key.rpartition(".")[2], _owner(key)], 104, initial_indent="    ", subsequent_indent="    "
        )
    return "\n".join(lines)


def _owner(key: str) -> str:
    """The dataclass that holds ``key``: recipe.data.path is a field of Data."""
    return key.split(".")[-2].capitalize()


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
    for node in ast.parse(inspect.getsource(schema)).body:
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
