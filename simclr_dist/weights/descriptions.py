"""The form of what an export says of itself: looked at before it is believed, as a file may hold anything."""

from collections.abc import Callable
from typing import Any


def _is_whole(value: Any) -> bool:
    return type(value) is int


def _are(what: Callable[[Any], bool], count: int | None = None) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) == (count or len(value)) and all(map(what, value))


def _or_none(what: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or what(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_FORM: dict[str, Callable[[Any], bool]] = {
    "source": _is_text,
    "architecture": _or_none(_is_mapping),
    "head": lambda value: isinstance(value, bool),
    "image_size": lambda value: _is_whole(value) and 0 < value < 2**16,
    "mean": _are(_is_number, 3),
    "std": _are(lambda value: _is_number(value) and value > 0, 3),
    "assumed": _are(_is_text),
    "recipe": _or_none(_is_mapping),
    "steps_done": _or_none(_is_whole),
}


def wrong_in(known: Any) -> str:
    """What is wrong with a description; "" when its form is right, or of a newer version, whose form is unknown."""
    if not isinstance(known, dict):
        return "no mapping"
    if not _is_whole(known.get("format")):
        return "its 'format' is no whole number"
    if known["format"] > 1:
        return ""
    missing = [key for key in _FORM if key not in known]
    wrong = [key for key, is_right in _FORM.items() if key in known and not is_right(known[key])]
    if known.get("architecture") is None and known.get("recipe") is None:
        wrong += ["neither an architecture nor a recipe"]
    return "; ".join([f"no {key!r}" for key in missing] + [f"wrong: {key!r}" for key in wrong])
