"""Fields of a config with their choices and limits, which stand in the field's metadata."""

from dataclasses import field
from typing import Any


def one_of(default: str, choices: tuple[str, ...]) -> Any:
    """Text that must be one of ``choices``."""
    return field(default=default, metadata={"choices": choices})


def number(default: float, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A number, at least ``low``, at most ``high`` and more than ``above``."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})
