"""What a run is of: the name of its method and what each of its metrics is, whatever wrote its folder."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from simclr_dist.config.metric import EVERY_METHOD, Metric
from simclr_dist.config.registry import method_class
from simclr_dist.errors import UserError
from simclr_dist.run.metrics_log import read_run_facts
from simclr_dist.storage.yaml_text import load_yaml


def method_of(recipe: Any) -> str:
    """The name of the method in the nested keys of a stored recipe, also of an earlier version; "" when it says none.

    The name alone, so that a method whose package is not installed has one too.
    """
    method = recipe.get("method", "simclr") if isinstance(recipe, dict) else ""  # the first versions had no such key
    name = method.get("name") if isinstance(method, dict) else method
    return name if isinstance(name, str) else ""


def read_method(run_dir: Path) -> str:
    """The name of the method in a run folder's config.yaml; "" when there is none that can be read."""
    try:
        content: Any = load_yaml((run_dir / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ""
    return method_of(content.get("recipe")) if isinstance(content, dict) else ""


def read_metric_descriptions(run_dir: Path, method: str) -> dict[str, Metric]:
    """What each metric of a run is: as its run.json says; without, as ``method`` says now, when that can be loaded.

    The metrics of every method are always known. A metric that is missing here has nothing but its name.
    """
    stored = read_run_facts(run_dir).get("metrics")
    if isinstance(stored, dict):
        return {name: metric for name, each in stored.items() if (metric := _metric(each))}
    try:
        return {**method_class(method).METRICS, **EVERY_METHOD}
    except UserError:
        return dict(EVERY_METHOD)


def _metric(stored: Any) -> Metric | None:
    """A description as JSON; keys of later versions are left out, and None is what is none."""
    if not isinstance(stored, dict):
        return None
    types = {entry.name: bool if isinstance(entry.default, bool) else str for entry in fields(Metric)}
    known: dict[str, Any] = {key: value for key, value in stored.items() if isinstance(value, types.get(key, ()))}
    return Metric(**known) if "title" in known else None
