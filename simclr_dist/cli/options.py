"""What several subcommands take."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class PathType(click.Path):
    """A path as ``Path``; not "", which that takes for the current folder: a shell's variable that is not set."""

    def __init__(self, *, dir_okay: bool = True) -> None:
        super().__init__(dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, unless it is empty."""
        return super().convert(_not_empty(self, value, param, ctx), param, ctx)


class NameType(click.types.StringParamType):
    """Text that names something, and is not ""."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text, unless it is empty."""
        return super().convert(_not_empty(self, value, param, ctx), param, ctx)


class NumberType(click.FloatRange):
    """A number above ``above``, or at least ``low``, and at most ``high``; not nan or inf, which a range lets by."""

    def __init__(self, *, above: float | None = None, low: float | None = None, high: float | None = None) -> None:
        super().__init__(min=low if above is None else above, max=high, min_open=above is not None)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, in its range."""
        if not math.isfinite(click.FLOAT.convert(value, param, ctx)):
            self.fail(f"{value} is not a finite number", param, ctx)
        return super().convert(value, param, ctx)


def _not_empty(kind: Any, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    if value == "":
        kind.fail("it is empty; is a variable of the shell not set?", param, ctx)
    return value


def with_config(function: Callable[..., Any]) -> Callable[..., Any]:
    """``CONFIG [KEY=VALUE]...``."""
    return click.argument("config", metavar="CONFIG")(with_overrides(function))


def with_overrides(function: Callable[..., Any]) -> Callable[..., Any]:
    """``[KEY=VALUE]...``."""
    return click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)


def with_debug(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--debug``, which the command line looks for by itself."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(function)
