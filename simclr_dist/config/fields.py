"""Fields of a config with their choices and limits, which stand in the field's metadata."""

from dataclasses import field
from typing import Any


def one_of(default: str, choices: tuple[str, ...], *, outside: bool = False) -> Any:
    """Text that must be one of ``choices`` or, with ``outside``, package.module:Name."""
    return field(default=default, metadata={"choices": choices, "outside": outside})


def number(default: float, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A number, at least ``low``, at most ``high`` and more than ``above``."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})
