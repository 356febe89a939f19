"""``key=value`` behind a config's name: what each says, and what of the file it takes the place of."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from simclr_dist.config.key_types import type_of
from simclr_dist.errors import UserError
from simclr_dist.storage.yaml_text import AmbiguousNumberError, load_yaml, yaml_complaint


def overridden(node: Any, overrides: Sequence[str], path: Path) -> Any:
    """The mapping of the file ``path`` with every ``key=value``, the last of a key before others.

    The source of health bands of the file's names the keys of its recipe that have another value then.

    Raises:
        UserError: one of them is no ``key=value``, or does not fit the file.
    """
    given = [_override(override, path) for override in overrides]
    node = of_file = _without_other_method(_without_other_options(node, overrides), given)
    for override, value in zip(overrides, given, strict=True):
        try:
            node = OmegaConf.merge(node, value)
        except (OmegaConfBaseException, TypeError) as error:
            key = override.partition("=")[0]
            raise UserError(
                f"{override}: does not fit {path}, where '{key}' has keys below it, or a list stands there or above it "
                "in the place of keys; mend the file, or the override"
            ) from error
    _name_changes(of_file, node, [override.partition("=")[0] for override in overrides])
    return node


def literal(value: Any) -> Any:
    """Every text in ``value`` so that OmegaConf leaves it as it is: a ``${`` of its own is no interpolation."""
    if isinstance(value, dict):
        return {key: literal(each) for key, each in value.items()}
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _override(override: str, path: Path) -> Any:
    """The mapping that ``key=value`` is.

    Raises:
        UserError: it is none.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override}: not an override; write key=value, for example recipe.epochs=100")
    try:
        given, value = _value(key, text), OmegaConf.create()
        if _is_left_open(given):  # OmegaConf would merge nothing, and the file's value would stay
            raise UserError(f"{path}: {key}: has no value (???); give it one")
        OmegaConf.update(value, key, given)
    except AmbiguousNumberError as error:
        raise UserError(str(error)) from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{override}: cannot be read as key=value: {yaml_complaint(error)}") from error
    return value


def _value(key: str, text: str) -> Any:
    """What stands behind ``key=``: of a text key the word as it is, of any other what YAML reads."""
    quoted = text[:1] in ("'", '"')
    if type_of(key) is str:
        if quoted and len(text) > 1 and text[-1] == text[0]:
            raise UserError(f"{key}: {text} stands in quotes, which text needs no more here; leave them out")
        return literal(text)
    value = load_yaml(text, lambda inner: None if inner == key else type_of(inner), key, get_yaml_loader())
    return text if isinstance(value, str) and not quoted else value


def _is_left_open(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value == "???" or any(map(_is_left_open, inner))


def _name_changes(of_file: Any, node: Any, keys: Sequence[str]) -> None:
    """Another run may lie elsewhere than the bands of a file. They depend neither on seeds nor on where images are."""
    of_recipe = {key for key in keys if key.startswith("recipe.")} - {"recipe.seed", "recipe.data.path"}
    changed = sorted(key for key in of_recipe if _selected(of_file, key) != _selected(node, key))
    bands = _selected(of_file, "health")
    for metric in map(str, bands) if changed and isinstance(bands, DictConfig) else ():
        said = _selected(node, f"health.{metric}.source")
        if isinstance(said, str) and said.strip() and not any(key.startswith(f"health.{metric}") for key in keys):
            named = literal(f"{said.strip().rstrip('.')}; not of this run's {', '.join(changed)}")
            OmegaConf.update(node, f"health.{metric}.source", named)


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
    return _selected(node, "recipe.method.name")


def _without_other_options(node: Any, overrides: Sequence[str]) -> Any:
    """The keys of a file, without the options of its encoder when an override names another one."""
    named = [override.partition("=")[2] for override in overrides if override.startswith("recipe.encoder.name=")]
    if not named or _selected(node, "recipe.encoder.options") is None:
        return node
    if named[-1] != _selected(node, "recipe.encoder.name"):
        OmegaConf.update(node, "recipe.encoder.options", {}, merge=False)
    return node


def _selected(node: Any, key: str) -> Any:
    """What stands under a dotted key; None where there is none, or something else stands in its way."""
    try:
        return OmegaConf.select(node, key)
    except OmegaConfBaseException:
        return None
