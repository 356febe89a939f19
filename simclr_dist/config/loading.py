"""From YAML and ``key=value`` to a checked ``Config``, and back.

OmegaConf does the parsing and the typing; this module turns whatever is wrong into one line that names the file, the
key, the value and the cure.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simclr_dist.config.schema import Config, Recipe
from simclr_dist.errors import UserError, first_line, nearest


def load_config(config: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file, or of a shipped recipe by name, with ``key=value`` overrides.

    Raises:
        UserError: no such file or recipe, bad YAML, unknown key, wrong type, value out of range, impossible
            combination.
    """
    path = find_config(config)
    node = _parse(path, overrides)
    _refuse_unknown_keys(OmegaConf.to_container(node), Config(), where=str(path))
    try:
        loaded = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), node))
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_explain(error)}") from error
    assert isinstance(loaded, Config)
    try:
        _refuse_out_of_range(loaded)
        loaded.check()
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    loaded.machine.run_dir = loaded.machine.run_dir or f"runs/{path.stem}"
    return loaded


def find_config(name: str) -> Path:
    """The file of ``name``: a path, or the name of a shipped recipe with or without ``.yaml``."""
    from simclr_dist.configs import shipped as shipped_configs

    if Path(name).is_file():
        return Path(name)
    shipped: dict[str, Path] = {path.stem: path for path in shipped_configs()}
    if name.removesuffix(".yaml") in shipped and "/" not in name:
        return shipped[name.removesuffix(".yaml")]
    guess = nearest(Path(name).stem, list(shipped))
    raise UserError(f"{name}: no such file, and no shipped recipe of that name{guess}; shipped: {', '.join(shipped)}")


def recipe_from_dict(stored: dict[str, Any]) -> Recipe:
    """The recipe that :func:`to_dict` made, as checkpoints hold it."""
    recipe = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Recipe), stored))
    assert isinstance(recipe, Recipe)
    return recipe


def to_dict(node: Any) -> dict[str, Any]:
    """A dataclass of the config as plain dicts, lists, numbers and strings."""
    return dataclasses.asdict(node)


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that :func:`load_config` reads back to the same config."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def fields_of(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """(dotted key, value, field) of every leaf of a config dataclass, in order."""
    for entry in dataclasses.fields(node):
        value = getattr(node, entry.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value, entry


def _parse(path: Path, overrides: Sequence[str]) -> Any:
    try:
        node = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {_one_line(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    if not OmegaConf.is_dict(node):
        raise UserError(f"{path}: must be a mapping with the keys 'recipe' and 'machine'")
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key:
            raise UserError(f"{override}: not an override; write key=value, for example recipe.epochs=100")
        try:
            node = OmegaConf.merge(node, OmegaConf.from_dotlist([override]))
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"{override}: cannot be read as key=value: {_one_line(error)}") from error
    return node


def _refuse_unknown_keys(given: Any, schema: Any, where: str, prefix: str = "") -> None:
    known = {entry.name: getattr(schema, entry.name) for entry in dataclasses.fields(schema)}
    for key, value in (given or {}).items():
        name = f"{prefix}{key}"
        if key not in known:
            alike = nearest(str(key), list(known)) or nearest(str(key), _all_keys())
            hint = alike or f"; known here: {', '.join(known)}"
            raise UserError(f"{where}: unknown key '{name}'{hint}")
        if dataclasses.is_dataclass(known[key]):
            if not isinstance(value, dict):
                raise UserError(f"{where}: {name}: expected keys below it, got {value!r}")
            _refuse_unknown_keys(value, known[key], where, f"{name}.")


def _all_keys() -> list[str]:
    return [key for key, _, _ in fields_of(Config())]


def _refuse_out_of_range(config: Config) -> None:
    for key, value, entry in fields_of(config):
        limits = entry.metadata
        choices = limits.get("choices")
        if choices and value not in choices:
            raise UserError(f"{key}: '{value}' is not one of {', '.join(choices)}{nearest(str(value), list(choices))}")
        if limits.get("low") is not None and not value >= limits["low"]:
            raise UserError(f"{key}: {value} is too small; at least {limits['low']:g}")
        if limits.get("high") is not None and not value <= limits["high"]:
            raise UserError(f"{key}: {value} is too large; at most {limits['high']:g}")
        if limits.get("above") is not None and not value > limits["above"]:
            raise UserError(f"{key}: {value} must be above {limits['above']:g}")


def _explain(error: OmegaConfBaseException) -> str:
    expected = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false", "String": "text"}
    key, message = getattr(error, "full_key", None), _one_line(error)
    if not key:
        return message
    for kind, words in expected.items():
        if message.endswith(f"could not be converted to {kind}") or f"not a valid {kind.lower()}" in message:
            return f"{key}: {message.split(' of type')[0].removeprefix('Value ')} is not {words}"
    return f"{key}: {message}"


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"{getattr(error, 'problem', 'syntax error')} at line {mark.line + 1}, column {mark.column + 1}"
    return first_line(error)
