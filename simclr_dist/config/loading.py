"""From YAML and ``key=value`` to a checked ``Config``, and back.

Text stays as it was written, in a file and behind ``key=``. OmegaConf merges and fills in ``${...}``; this module turns
whatever is wrong into one line that names the file, the key, the value and the cure.
"""

import dataclasses
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
from simclr_dist.config.overrides import literal, overridden
from simclr_dist.config.places import refuse_variables
from simclr_dist.config.recipe import Recipe, usual_warmup
from simclr_dist.config.registry import method_keys
from simclr_dist.config.schema import Config
from simclr_dist.config.values import takes_bands, takes_options
from simclr_dist.errors import UserError, nearest
from simclr_dist.storage.paths import expanded
from simclr_dist.storage.yaml_text import MOST_CHARACTERS, AmbiguousNumberError, load_yaml, yaml_complaint


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
    is_folder = False
    try:
        is_folder = name != "" and Path(name).is_dir()  # "" is the folder "." to it
        if name and Path(name).exists() and not is_folder:  # a pipe too, which is no regular file
            return Path(name)
    except (OSError, ValueError):
        pass  # no name that a file can have: said below
    if name.removesuffix(".yaml") in shipped and "/" not in name:
        return shipped[name.removesuffix(".yaml")]
    if is_folder:
        raise UserError(f"{name}: is a folder; give the YAML file in it")
    guess = nearest(Path(name).stem, list(shipped))
    raise UserError(f"{name}: no such file, and no shipped recipe of that name{guess}; shipped: {', '.join(shipped)}")


def refuse_pipe(name: str) -> None:
    """Before several processes are started, each of which reads the config.

    Raises:
        UserError: ``name`` is a pipe, which can be read once.
    """
    if Path(name).is_fifo():
        raise UserError(
            f"{name}: --processes: each process reads the config, and a pipe can be read once; write a file"
        )


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
    return OmegaConf.to_yaml(OmegaConf.create(literal(to_dict(config))))


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
            text = file.read(MOST_CHARACTERS + 1)
        if not text and not path.is_file():
            raise UserError(f"{path}: no text came; a pipe can be read once: write the config into a file")
        node = load_yaml(text, type_of, loader=get_yaml_loader())
        if not isinstance(node, dict | None):
            raise UserError(needs)
        node = OmegaConf.merge(OmegaConf.create(node or {}), OmegaConf.create(literal(dict(values))))
    except AmbiguousNumberError as error:
        raise UserError(f"{path}: {error}") from error
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # which omegaconf stumbles over
            raise error.__context__ from None
        raise UserError(f"{path}: not valid YAML: {yaml_complaint(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    return overridden(node, overrides, path)


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
