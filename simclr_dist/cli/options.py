"""What several subcommands take."""

from collections.abc import Callable
from typing import Any

import click


def with_config(function: Callable[..., Any]) -> Callable[..., Any]:
    """``CONFIG [KEY=VALUE]...``."""
    return click.argument("config", metavar="CONFIG")(with_overrides(function))


def with_overrides(function: Callable[..., Any]) -> Callable[..., Any]:
    """``[KEY=VALUE]...``."""
    return click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)


def with_debug(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--debug``, which the command line looks for by itself."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(function)
