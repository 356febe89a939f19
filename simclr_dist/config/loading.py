"""From YAML and ``key=value`` to a checked ``Config``, and back.

Text stays as it was written, in a file and behind ``key=``. OmegaConf merges and fills in ``${...}``; this module turns
whatever is wrong into one line that names the file, the key, the value and the cure.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from simclr_dist.config.fields import FOLLOWS
from simclr_dist.config.filling import fill_recipe, filled, method_name, refuse_config, refuse_recipe
from simclr_dist.config.health import Bands
from simclr_dist.config.key_types import type_of
from simclr_dist.config.machine import Machine
from simclr_dist.config.moved import migrated
from simclr_dist.config.places import refuse_variables
from simclr_dist.config.recipe import Recipe, usual_warmup
from simclr_dist.config.registry import method_keys
from simclr_dist.config.schema import Config
from simclr_dist.config.values import takes_bands, takes_options
from simclr_dist.errors import UserError, nearest
from simclr_dist.storage.paths import expanded
from simclr_dist.storage.yaml_text import MOST_CHARACTERS, load_yaml, yaml_complaint


def load_config(config: str, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Config:
    """The config of a YAML file, or of a shipped recipe by name, with ``key=value`` overrides.

    Args:
        config: the file or the name.
        overrides: as a user types them.
        values: nested keys that take the place of the file's, as they are.

    Raises:
        UserError: no such file or recipe, bad YAML, unknown key, wrong type, value out of range, impossible
            combination.
    """
    path = find_config(config)
    parsed = _parse(path, overrides, values or {})
    try:
        refuse_config(OmegaConf.to_container(parsed))  # type: ignore[arg-type]
        given = _resolved(parsed)
        health = {name: filled(Bands, own, f"health.{name}.") for name, own in given.get("health", {}).items()}
        machine = filled(Machine, given.get("machine", {}), "machine.")
        loaded = Config(recipe=fill_recipe(given.get("recipe", {})), machine=machine, health=health)
        loaded.check()
        refuse_variables(loaded)
        run_dir = loaded.machine.run_dir or f"runs/{path.stem}"
        loaded.machine.run_dir = str(expanded("machine.run_dir", run_dir))  # as every message is to show it
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return loaded


def find_config(name: str) -> Path:
    """The file of ``name``: a path, or the name of a shipped recipe with or without ``.yaml``."""
    from simclr_dist.configs import shipped as shipped_configs

    shipped: dict[str, Path] = {path.stem: path for path in shipped_configs()}
    try:
        if Path(name).is_file():
            return Path(name)
        if Path(name).is_dir():
            raise UserError(f"{name}: is a folder; give the YAML file in it")
    except (OSError, ValueError):
        pass  # no name that a file can have: said below
    if name.removesuffix(".yaml") in shipped and "/" not in name:
        return shipped[name.removesuffix(".yaml")]
    guess = nearest(Path(name).stem, list(shipped))
    raise UserError(f"{name}: no such file, and no shipped recipe of that name{guess}; shipped: {', '.join(shipped)}")


def recipe_from_dict(stored: dict[str, Any]) -> Recipe:
    """The recipe that :func:`to_dict` made, as checkpoints hold it; also one of an earlier version of this project.

    Raises:
        UserError: it has keys or values that this version does not know.
    """
    stored = migrated(stored)
    try:
        refuse_recipe(stored)
        return fill_recipe(stored)
    except ValueError as error:
        raise UserError(f"the stored recipe: {error}") from error


def to_dict(node: Any) -> dict[str, Any]:
    """A dataclass of the config as plain dicts, lists, numbers and strings."""
    return dataclasses.asdict(node)


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that :func:`load_config` reads back to the same config."""
    return OmegaConf.to_yaml(OmegaConf.create(_literal(to_dict(config))))


def fields_of(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any]]]:
    """(dotted key, value, field) of every leaf of a config dataclass, in order; groups of views one after another."""
    yield from (leaf[:3] for leaf in leaves_of(node, prefix))


def leaves_of(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any], type]]:
    """The same and, fourth, the dataclass that the field is of."""
    for entry in dataclasses.fields(node):
        key, value = f"{prefix}{entry.name}", getattr(node, entry.name)
        if dataclasses.is_dataclass(value):
            yield from leaves_of(value, f"{key}.")
        elif isinstance(value, dict) and not takes_bands(entry) and not takes_options(entry):
            for name, inner in value.items():
                yield from leaves_of(inner, f"{key}.{name}.")
        else:
            yield key, value, entry, type(node)


def _parse(path: Path, overrides: Sequence[str], values: Mapping[str, Any]) -> Any:
    """The mapping that the file, the values and the overrides give, its interpolations as they are written."""
    needs = f"{path}: must be a mapping with the keys 'recipe' and 'machine', and perhaps 'health'"
    node: Any
    try:
        with path.open(encoding="utf-8") as file:
            node = load_yaml(file.read(MOST_CHARACTERS + 1), type_of, loader=get_yaml_loader())
        if not isinstance(node, dict | None):
            raise UserError(needs)
        node = OmegaConf.merge(OmegaConf.create(node or {}), OmegaConf.create(_literal(dict(values))))
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {yaml_complaint(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    given = [_override(override) for override in overrides]
    node = _without_other_method(_without_other_options(node, overrides), given)
    for override, value in zip(overrides, given, strict=True):
        try:
            node = OmegaConf.merge(node, value)
        except (OmegaConfBaseException, TypeError) as error:
            key = override.partition("=")[0]
            raise UserError(f"{override}: does not fit {path}, where '{key}' has keys below it or has none") from error
    return node


def _override(override: str) -> Any:
    """The mapping that ``key=value`` is.

    Raises:
        UserError: it is none.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override}: not an override; write key=value, for example recipe.epochs=100")
    try:
        value = OmegaConf.create()
        OmegaConf.update(value, key, _value(key, text))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{override}: cannot be read as key=value: {yaml_complaint(error)}") from error
    return value


def _value(key: str, text: str) -> Any:
    """What stands behind ``key=``: of a text key the word as it is, of any other what YAML reads."""
    quoted = text[:1] in ("'", '"')
    if type_of(key) is str:
        if quoted and len(text) > 1 and text[-1] == text[0]:
            raise UserError(f"{key}: {text} stands in quotes, which text needs no more here; leave them out")
        return _literal(text)
    value = load_yaml(text, lambda inner: None if inner == key else type_of(inner), key, get_yaml_loader())
    return text if isinstance(value, str) and not quoted else value


def _literal(value: Any) -> Any:
    """Every text in ``value`` so that OmegaConf leaves it as it is: a ``${`` of its own is no interpolation."""
    if isinstance(value, dict):
        return {key: _literal(each) for key, each in value.items()}
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _resolved(parsed: Any) -> dict[str, Any]:
    """The nested keys with every ``${...}`` replaced by what it stands for, a default where that key is not given."""
    name = method_name(OmegaConf.to_container(parsed.get("recipe", OmegaConf.create())))  # type: ignore[arg-type]
    # Views stay as they were given: a default in a group would go before a key of all groups.
    defaults = to_dict(Config(recipe=Recipe(method=method_keys(name)))) | {"health": {}}
    defaults["recipe"]["views"] = {}
    defaults["recipe"]["warmup_epochs"] = FOLLOWS
    try:
        merged = OmegaConf.merge(OmegaConf.create(defaults), parsed)
        given: Any = OmegaConf.to_container(merged, resolve=True)
        if given["recipe"]["warmup_epochs"] == FOLLOWS and isinstance(given["recipe"]["epochs"], int):
            # Here and not by the recipe alone: what says ${recipe.warmup_epochs} gets the number.
            OmegaConf.update(merged, "recipe.warmup_epochs", usual_warmup(given["recipe"]["epochs"]))
            given = OmegaConf.to_container(merged, resolve=True)
        return given  # type: ignore[no-any-return]
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {yaml_complaint(error)}") from error


def _without_other_method(node: Any, overrides: Sequence[Any]) -> Any:
    """The keys of a file, without those of its method and its bands when the overrides name another method: they say
    nothing about that one. What the overrides themselves say of it is merged later, in whatever order they stand."""
    named = [name for each in overrides if (name := _named_method(each)) is not None]
    if not named or named[-1] == (_named_method(node) or "simclr"):
        return node
    kept: Any = OmegaConf.to_container(node)
    if isinstance(kept.get("recipe"), dict):
        kept["recipe"].pop("method", None)
    kept.pop("health", None)
    return OmegaConf.create(kept)


def _named_method(node: Any) -> Any:
    """recipe.method.name; None where there is none, or something else stands in its way."""
    try:
        return OmegaConf.select(node, "recipe.method.name")
    except OmegaConfBaseException:
        return None


def _without_other_options(node: Any, overrides: Sequence[str]) -> Any:
    """The keys of a file, without the options of its encoder when an override names another one."""
    named = [override.partition("=")[2] for override in overrides if override.startswith("recipe.encoder.name=")]
    if not named or OmegaConf.select(node, "recipe.encoder.options") is None:
        return node
    if named[-1] != OmegaConf.select(node, "recipe.encoder.name"):
        OmegaConf.update(node, "recipe.encoder.options", {}, merge=False)
    return node
