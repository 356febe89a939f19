"""Fields of a config with their choices and limits, which stand in the field's metadata."""

from dataclasses import field
from typing import Any

# More than these is a slip, which torch or the system would meet with an overflow, or a run with no end.
MOST_CHANNELS = 2**20
"""Of a layer."""
MOST_KEYS = 2**24
"""Of a queue."""
MOST_PIXELS = 2**14
"""Of a view, a side."""
MOST_WORKERS = 1024
"""Processes or threads beside one."""
MOST_EPOCHS = 1_000_000
MOST_SECONDS = 2_000_000
"""23 days: the system waits for 2**31 milliseconds at most."""


def one_of(default: str, choices: tuple[str, ...], *, outside: bool = False, prefix: str = "") -> Any:
    """Text that is one of ``choices`` or, with ``outside``, package.module:Name, or that begins with ``prefix``."""
    return field(default=default, metadata={"choices": choices, "outside": outside, "prefix": prefix})


def somebodys_options() -> Any:
    """Names of somebody else's -> numbers, text, true or false, or lists of them; {} by default."""
    return field(default_factory=dict, metadata={"options": True})


def number(default: float, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A number, at least ``low``, at most ``high`` and more than ``above``."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


FOLLOWS = -1.0
"""Stands in a config for: what the field's rule makes of other keys."""


def number_that_follows(rule: str, low: float) -> Any:
    """A number, at least ``low``, or FOLLOWS, the default; ``rule`` says in words what that is."""
    return field(default=FOLLOWS, metadata={"low": low, "rule": rule})
