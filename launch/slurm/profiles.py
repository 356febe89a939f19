"""Profiles: YAML files that keep a cluster's usual options of ``submit``."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from simclr_dist.errors import UserError, nearest
from simclr_dist.launch.slurm.resources import LEAST, Resources, without_second_answers
from simclr_dist.storage.yaml_text import load_yaml, yaml_complaint


def resources(profile: str | None, given: dict[str, Any]) -> tuple[Resources, Path | None]:
    """The resources of a profile with what is ``given`` instead, and the profile's file.

    Args:
        profile: a YAML file, or the name of one in the profiles' folder; None: ``default`` there, when it exists.
        given: values by field name.

    Raises:
        UserError: no such profile, or a key or value in it that is wrong.
    """
    path = _profile_file(profile)
    stored = _read(path) if path else {}
    return without_second_answers(dataclasses.replace(Resources(**stored), **given), {*stored, *given}), path


def _profiles() -> Path | None:
    """The folder of the user's profiles; None: this user has no home."""
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "simclr_dist"
    except RuntimeError:
        return None


def _profile_file(profile: str | None) -> Path | None:
    folder = _profiles()
    if profile is None:
        default = folder / "default.yaml" if folder else None
        return default if default and default.is_file() else None
    for path in (Path(profile), *([folder / f"{profile}.yaml"] if folder else [])):
        if path.is_file():
            return path
    if folder is None:
        raise UserError(f"--profile: '{profile}' is no file, and this user has no home folder with profiles; give one")
    there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
    raise UserError(f"--profile: '{profile}' is no file, and no profile in {folder} ({there})")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_yaml(path.read_text(encoding="utf-8"), _type_of, loader=get_yaml_loader()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {yaml_complaint(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold KEY: VALUE lines named as the options of submit, such as 'partition: gpu'")
    known = {field.name: field for field in dataclasses.fields(Resources)}
    values = {}
    for word, value in content.items():
        name = str(word).replace("-", "_")
        if name not in known:
            raise UserError(f"{path}: unknown key '{word}'{nearest(name, list(known))}; keys are the options of submit")
        if name in values:
            raise UserError(f"{path}: {word} is given twice, with - and with _; keep one of the lines")
        values[name] = _checked(f"{path}: {word}", name, value)
    return values


def _type_of(key: str) -> type | None:
    """Text but for the counts: an account is 0123, a time limit 12:30."""
    name = key.partition(".")[0].replace("-", "_")
    return None if isinstance(getattr(Resources, name, None), int) else str


def _checked(where: str, name: str, value: Any) -> Any:
    """The value of a profile's key, as :class:`Resources` holds it."""
    default = getattr(Resources, name)
    if value is None:
        raise UserError(f"{where} has no value; give it one, or remove the line")
    if isinstance(default, tuple):
        if isinstance(value, dict) and name == "sbatch":
            value = [key if each is None else _pair(where, key, each) for key, each in value.items()]
        words = value if isinstance(value, list) else [value]
        if not all(isinstance(word, str) for word in words):
            raise UserError(f"{where} is '{value}'; {_LISTS[name]}")
        return tuple(words)
    if isinstance(default, int):
        if isinstance(value, bool) or not isinstance(value, int) or value < LEAST[name]:
            raise UserError(f"{where} is '{value}'; give a whole number, {LEAST[name]} or more")
        return value
    if not isinstance(value, str):
        raise UserError(f"{where} is '{value}'; give one word or number")
    return value


_LISTS = {
    "setup": "give a line of the batch script, or a list of lines",
    "sbatch": "give KEY: VALUE, or a list of KEY=VALUE",
}


def _pair(where: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {key} is '{value}'; give one word or number")
    return f"{key}={value}"
