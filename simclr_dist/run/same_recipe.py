"""A run folder belongs to one recipe: where the one that stands there is another than the one given."""

from pathlib import Path
from typing import Any

import yaml

from simclr_dist.config import Recipe, load_config, to_yaml
from simclr_dist.config.anomalies import may_change
from simclr_dist.config.filling import method_name
from simclr_dist.config.loading import fields_of
from simclr_dist.config.moved import migrated
from simclr_dist.config.registry import method_keys
from simclr_dist.errors import UserError
from simclr_dist.log import log
from simclr_dist.run import checkpoint
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.yaml_text import load_yaml
from simclr_dist.terminal import typed

LOCATION_KEYS = ("data.path", "initial.weights")
"""Keys that say where images and initial weights are: elsewhere, perhaps, on another host or after a restart. What they
are is compared by count and fingerprint, and by initial.sha256."""

ALSO_UNTIL_NOW = {"data.transparent_ground": "none", "data.apply_orientation": False}
"""What versions did that had not these keys. A recipe they stored resumes with it, and with the defaults, which leave
plain images as they are."""


def differences(stored: dict[str, Any], recipe: Recipe) -> list[str]:
    """In words, each value of ``stored`` (a recipe, nested keys as in a file) with which ``recipe`` cannot resume.

    A key that the stored recipe does not know yet counts as its default, or as what was done before there was one.
    """
    found = []
    stored = migrated(stored)
    name = recipe.method.name
    if (other := method_name(stored)) != name:  # whose other keys, and groups of views, are not comparable
        return [f"recipe.method.name is {other!r} there and {name!r} here"]
    defaults = {key: value for key, value, _ in fields_of(Recipe(method=method_keys(name)))}
    views = stored.get("views")
    if isinstance(views, dict):  # a key directly below, as in earlier versions, is every group's
        shared = {key: value for key, value in views.items() if key not in recipe.views}
        for group in recipe.views:
            if isinstance(own := views.get(group, {}), dict):
                views = views | {group: shared | own}
        stored = stored | {"views": views}
    for key, here, _ in fields_of(recipe):
        there: Any = stored
        if key in ALSO_UNTIL_NOW and here == ALSO_UNTIL_NOW[key]:
            defaults[key] = here
        for part in key.split("."):
            there = there.get(part, defaults.get(key, here)) if isinstance(there, dict) else defaults.get(key, here)
        group, _, last = key.partition(".")
        unnamed = key == "initial.sha256" and recipe.initial.weights and not here  # until the start finds its digest
        may_differ = key in LOCATION_KEYS or unnamed or (group == "anomalies" and may_change(last, there, here))
        if there != here and not may_differ:
            found.append(f"recipe.{key} is {there!r} there and {here!r} here")
    return found


def refuse_other(where: Path, differing: list[str], stored: dict[str, Any], recipe: Recipe) -> None:
    """Raise a UserError that names what differs between ``where``, a file of the run, and here, if anything does."""
    if differing:
        cure = "choose another machine.run_dir, or restore the recipe"
        is_longer = isinstance(epochs := stored.get("epochs"), int) and recipe.epochs > epochs
        if is_longer and all(each.startswith(("recipe.epochs ", "recipe.warmup_epochs ")) for each in differing):
            run = where.parent.parent if where.suffix == ".pt" else where.parent
            cure = (
                f"its learning rates end with epoch {epochs}: to extend it by a new run that begins with its "
                f"weights: {typed('extend', run, '--epochs', recipe.epochs)}; or {cure}"
            )
        raise UserError(f"machine.run_dir: {where} is of another recipe: {'; '.join(differing)}; {cure}")


def is_begun(run_dir: Path) -> bool:
    """Whether a run has computed anything in a folder; its checkpoints may have been removed since."""
    metrics = run_dir / "metrics.jsonl"
    return bool(
        checkpoint.by_age(run_dir / "checkpoints")
        or (metrics.exists() and metrics.stat().st_size)
        or any((run_dir / "kept").glob("*.pt"))
    )


def refuse_folder_of_other(run_dir: Path, recipe: Recipe) -> None:
    """The same of a folder in which something was computed, by its config.yaml: no checkpoint is read or judged.

    Raises:
        UserError: the run that stands there has another recipe.
    """
    path = run_dir / "config.yaml"
    if not is_begun(run_dir):
        return
    try:
        stored = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # a checkpoint, where there is one, says it itself
    if isinstance(stored, dict) and isinstance(stored.get("recipe"), dict):
        refuse_other(path, differences(stored["recipe"], recipe), stored["recipe"], recipe)


def keep_given(run_dir: Path) -> None:
    """Before a run's first config.yaml is written: one that the user has put into the folder gets another name.

    Raises:
        OSError: the folder cannot be written.
    """
    path, kept = run_dir / "config.yaml", run_dir / "config_given.yaml"
    if path.exists() and not kept.exists() and not is_begun(run_dir) and not _is_written_by_run(path):
        write_atomically(kept, path.read_bytes())
        log.info("%s: kept as %s, as the run writes its own with all keys", path, kept.name)


def _is_written_by_run(path: Path) -> bool:
    try:
        return to_yaml(load_config(str(path))) == path.read_text(encoding="utf-8")
    except (UserError, OSError, UnicodeDecodeError):
        return False
