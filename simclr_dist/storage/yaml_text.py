"""YAML that anybody may have written: bounded before anything is built from it, and text left as it was written."""

import re
from collections.abc import Callable
from typing import Any

import yaml

from simclr_dist.errors import first_line

MOST_CHARACTERS = 1_000_000
MOST_VALUES = 100_000
"""That a document may become once its aliases are followed: nested ones of 500 bytes become billions."""


class AmbiguousNumberError(yaml.YAMLError):
    """A number that YAML 1.1 reads as another than it looks like; the message begins with its key."""


_YAML = "tag:yaml.org,2002:"
_TEXT, _MAPPING, _NOTHING = f"{_YAML}str", f"{_YAML}map", f"{_YAML}null"
_NUMBERS = {f"{_YAML}{name}" for name in ("int", "float")}
_NOT_TEXT = {f"{_YAML}{name}" for name in ("bool", "float", "int", "merge", "timestamp", "value")}


def load_yaml(
    text: str,
    type_of: Callable[[str], type | None] = lambda key: None,
    key: str = "",
    loader: Any = yaml.SafeLoader,
) -> Any:
    """What a YAML document says; only data, never code.

    Args:
        text: the document.
        type_of: what a dotted key is to hold. ``str``: what looks like a number or a date is the text as it stands
            there (YAML reads 2026_11_26 as 20261126, 12:30 as 750, 010 as 8); ``dict``: nothing is a mapping without
            keys; anything else: by YAML's rules, but that 12:30 and 010 are refused.
        key: dotted key of the document itself.
        loader: a safe loader of PyYAML.

    Raises:
        AmbiguousNumberError: a number in octal (010) or base 60 (12:30), which nobody writes on purpose.
        yaml.YAMLError: it is no YAML, or would become larger than any file of settings is.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"longer than {MOST_CHARACTERS} characters, which no file of settings is")
    try:
        reader = loader(text)
        node = reader.get_single_node()
        if node is None:
            return {} if type_of(key) is dict else None
        if _size(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"its aliases make more than {MOST_VALUES} values of it; write fewer, or none")
        return reader.construct_document(_as_typed(node, key, type_of))
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except Exception as error:  # PyYAML's converters raise what they meet: a number of 5000 digits, "!!bool x"
        raise yaml.YAMLError(f"a value cannot be read: {first_line(error)}") from error


def yaml_complaint(error: Exception) -> str:
    """What is wrong with a document and where, in one line; of an error that is not YAML's, its first line."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{getattr(error, 'problem', 'syntax error')} at line {mark.line + 1}, column {mark.column + 1}"
    return first_line(error)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node becomes, counted without making them."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # met again inside itself: it has no end
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [each for pair in node.value for each in pair]
        known[id(node)] = 1 + sum(_size(each, known) for each in inner)
    return known[id(node)]


def _as_typed(node: yaml.Node, key: str, type_of: Callable[[str], type | None]) -> yaml.Node:
    if isinstance(node, yaml.ScalarNode):
        if type_of(key) is str and node.style is None and node.tag in _NOT_TEXT:
            return yaml.ScalarNode(_TEXT, node.value, node.start_mark, node.end_mark)
        if node.style is None and node.tag in _NUMBERS:
            _refuse_ambiguous(key, node.value)
        if type_of(key) is dict and node.tag == _NOTHING:
            return yaml.MappingNode(_MAPPING, [], node.start_mark, node.end_mark)
    elif isinstance(node, yaml.SequenceNode):
        node.value = [_as_typed(each, key, type_of) for each in node.value]
    elif isinstance(node, yaml.MappingNode):
        for name, _ in node.value:
            _as_typed(name, key, lambda _: None)
        node.value = [(name, _as_typed(value, _below(key, name), type_of)) for name, value in node.value]
    return node


def _refuse_ambiguous(key: str, number: str) -> None:
    where = f"{key}: {number}" if key else number
    if ":" in number:
        raise AmbiguousNumberError(f"{where} is base 60 to YAML; write the number in digits alone, or text in quotes")
    if re.fullmatch("[-+]?0[0-7_]+", number):
        either = dict.fromkeys(str(int(number.replace("_", ""), base)) for base in (10, 8))
        raise AmbiguousNumberError(f"{where} is octal to YAML, for its leading 0; write {' or '.join(either)}")


def _below(key: str, name: yaml.Node) -> str:
    if not isinstance(name, yaml.ScalarNode) or name.tag == f"{_YAML}merge":
        return key
    return f"{key}.{name.value}" if key else str(name.value)
