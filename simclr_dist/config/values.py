"""One value of a config against its field: type, choices, limits. What does not fit is a line with the cure."""

import dataclasses
import re
import sys
from typing import Any

from simclr_dist.config.fields import FOLLOWS
from simclr_dist.errors import UserError, nearest


def checked(name: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    """The value in the field's type.

    Raises:
        UserError: it is of another type, not finite, not a choice or out of range.
    """
    limits, expected, fits = field.metadata, "", False
    if takes_bands(field):
        return _bands(name, value)
    if limits.get("percents"):
        return _percents(name, value)
    if takes_options(field):
        return _options(name, value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if field.type is int:
        expected, fits = "a whole number", whole
    elif field.type is float:
        expected, fits = "a finite number", _is_finite(value)
        value = float(value) if fits else value
    elif field.type is bool:
        expected, fits = "true or false", isinstance(value, bool)
    elif field.type is str:
        expected, fits = "text (numbers that are meant as text need quotes)", isinstance(value, str)
        if "choices" in limits:
            prefix = f", no {limits['prefix']}NAME" if limits.get("prefix") else ""
            outside = " and no package.module:Name" if limits.get("outside") else ""
            expected = f"one of {', '.join(limits['choices'])}{prefix}{outside}"
    else:
        expected, fits = "a list of three numbers, one a colour", _are_numbers(value, 3)
        value = [float(number) for number in value] if fits else value
    if not fits:
        raise UserError(f"{name}: {value!r} is not {expected}")
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{name}: {value!r} holds a character that no path or name can have (NUL); remove it")
    if "choices" in limits and value not in limits["choices"] and not _is_free(value, limits):
        raise UserError(f"{name}: {value!r} is not {expected}{nearest(value, list(limits['choices']))}")
    if "rule" in limits and value == FOLLOWS:
        return value
    if limits.get("low") is not None and value < limits["low"]:
        rule = f", or {FOLLOWS:g} for {limits['rule']}" if "rule" in limits else ""
        raise UserError(f"{name}: {value} is too small; at least {plain_number(limits['low'])}{rule}")
    if limits.get("high") is not None and value > limits["high"]:
        raise UserError(f"{name}: {value} is too large; at most {plain_number(limits['high'])}")
    if limits.get("above") is not None and value <= limits["above"]:
        raise UserError(f"{name}: {value} must be above {plain_number(limits['above'])}")
    return value


def takes_bands(field: dataclasses.Field[Any]) -> bool:
    """Whether the field's value is a mapping from the user's own percents to bands."""
    return field.type == dict[float, list[float]]


def takes_options(field: dataclasses.Field[Any]) -> bool:
    """Whether the field's value is a mapping whose keys are somebody else's."""
    return bool(field.metadata.get("options"))


def plain_number(value: float) -> str:
    """A limit as people write it: 0.5, 1, and every digit of a large whole number."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _is_free(value: str, limits: Any) -> bool:
    """Whether a text stands for something that no list of choices has."""
    begins = limits.get("prefix") and value.startswith(limits["prefix"]) and value != limits["prefix"]
    return bool(begins or (limits.get("outside") and ":" in value))


def _options(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{name}: {value!r} is not names with values; write {{drop_path_rate: 0.1}}, say")
    for key, each in value.items():
        for single in each if isinstance(each, list) else [each]:
            if not isinstance(single, bool | str) and not _is_finite(single):
                raise UserError(f"{name}.{key}: {each!r} is no number, text, true, false, or list of them")
    return {str(key): each for key, each in value.items()}


def _bands(name: str, value: Any) -> dict[float, list[float]]:
    if not isinstance(value, dict):
        raise UserError(f"{name}: {value!r} is not percents of the run with bands; write {{5: [20, 30]}}, say")
    found = {}
    for key, band in value.items():
        # On a command line, health.METRIC.bands.5=[20,30] names its percent as text.
        at = float(key) if isinstance(key, str) and re.fullmatch(r"\d+(\.\d+)?", key) else key
        percent = _percent(name, int(at) if isinstance(at, float) and at.is_integer() else at)
        if not _are_numbers(band, 2):
            raise UserError(f"{name}: at {percent:g} % stands {band!r}, which is not [lowest, highest]")
        low, high = band
        if low > high:
            raise UserError(f"{name}: at {percent:g} % the lowest, {low:g}, is above the highest, {high:g}; swap them")
        found[percent] = band
    return dict(sorted(found.items()))


def _percents(name: str, value: Any) -> list[float]:
    if not isinstance(value, list):
        raise UserError(f"{name}: {value!r} is not a list of percents of the run; write [5, 10, 20], say")
    return sorted({_percent(name, percent) for percent in value})


def _percent(name: str, value: Any) -> float:
    if not _is_finite(value) or not 0 < value <= 100:
        raise UserError(f"{name}: {value!r} is not a percentage of the run; above 0, at most 100")
    percent: float = value
    return percent


def _is_finite(value: Any) -> bool:
    # Compared and not converted: a whole number may have more digits than any float.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _are_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(_is_finite(number) for number in value)
