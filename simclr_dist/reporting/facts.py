"""What the files of a run folder say, without its weights and images."""

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from simclr_dist.config.metric import Metric
from simclr_dist.config.moved import migrated
from simclr_dist.errors import UserError, first_line
from simclr_dist.guards.anomalies import read_anomalies
from simclr_dist.guards.health_bands import FILE, read_record
from simclr_dist.run.descriptions import method_of, read_metric_descriptions
from simclr_dist.run.metrics_log import read_records
from simclr_dist.storage.reading import cannot_be_read
from simclr_dist.storage.yaml_text import load_yaml


@dataclass(frozen=True)
class Start:
    """One start of the run's command."""

    when: datetime
    host: str
    first_step: int | None


@dataclass(frozen=True)
class Facts:
    """A run as its folder has it."""

    path: Path
    name: str
    method: str
    """Its name; "" without a config.yaml."""
    config: dict[str, Any]
    """Dotted key -> value, the keys of an earlier version in their new places; empty without a config.yaml. Without
    machine.tracking, which may hold a password: a report is sent to others."""
    metrics: list[dict[str, float | None]]
    descriptions: dict[str, Metric]
    """What each metric is, as far as that is known."""
    evaluations: list[tuple[str, dict[str, Any]]]
    """(file name, contents) of what ``evaluate`` wrote."""
    health: dict[str, Any] | None
    """What the run found when it compared itself with its bands; None when it had none."""
    anomalies: list[dict[str, Any]]
    """Numbers that went wrong, oldest first."""
    starts: list[Start]
    warnings: list[str]
    """What went wrong on the way, from the log."""

    @property
    def steps_done(self) -> int:
        return int(self.metrics[-1]["step"] or 0) if self.metrics else 0

    def is_own(self, evaluation: dict[str, Any]) -> bool | None:
        """Whether a result is of the images of the run's recipe; None: of an earlier version, which does not say."""
        said, data = evaluation.get("own_images"), evaluation.get("data")
        if isinstance(said, bool):
            return said
        source, own = data.get("source") if isinstance(data, dict) else None, self.config.get("recipe.data.source")
        return False if source and own and source != own else None

    def own_first(self, evaluation: dict[str, Any]) -> int:
        """By which results rank: the run's own images, those of which nothing is said, others."""
        return {True: 2, None: 1, False: 0}[self.is_own(evaluation)]

    def whose(self, evaluation: dict[str, Any]) -> str:
        """What is said of a result of other images; "" of one of the run's own."""
        return " of images that are not the run's own" if self.is_own(evaluation) is False else ""

    def described(self, metric: str) -> Metric:
        """What a metric is; with its bare name for a title where nothing is known of it."""
        return self.descriptions.get(metric, Metric(title=metric))


def read_facts(run_dir: Path, name: str) -> Facts:
    """Read a run folder.

    Raises:
        UserError: it is not one, or a file in it cannot be understood.
    """
    if not any((run_dir / part).exists() for part in ("config.yaml", "metrics.jsonl", "checkpoints")):
        raise UserError(f"{run_dir}: not the folder of a run; give the run_dir of a pretraining run")
    config = read_config(run_dir / "config.yaml")
    method = method_of(config.get("recipe"))
    path = run_dir / "metrics.jsonl"
    metrics, damaged = read_records(path)
    left_out = [f"{path.name}: lines that are no records of a step, left out here: {len(damaged)}"] if damaged else []
    return Facts(
        path=run_dir,
        name=name,
        method=method,
        config=dict(leaves(without_tracking(config))),
        metrics=list[Any](metrics),
        descriptions=read_metric_descriptions(run_dir, method),
        evaluations=[(file.name, read_evaluation(file)) for file in sorted(run_dir.glob("evaluation_*.json"))],
        health=_health(run_dir / FILE),
        anomalies=read_anomalies(run_dir),
        starts=_starts(run_dir / "tensorboard"),
        warnings=_warnings(run_dir / "log.txt") + left_out,
    )


def read_config(path: Path) -> dict[str, Any]:
    """A run's config.yaml, nested, the keys of an earlier version in their new places; {} when it is missing.

    Raises:
        UserError: it cannot be understood.
    """
    if not path.exists():
        return {}
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping with the keys 'recipe' and 'machine', and perhaps 'health'")
    if isinstance(content.get("recipe"), dict):
        content["recipe"] = migrated(content["recipe"])
    return content


def without_tracking(config: dict[str, Any]) -> dict[str, Any]:
    """A nested config without machine.tracking, which may hold a password and must not leave the machine."""
    machine = config.get("machine")
    if not isinstance(machine, dict):
        return config
    return config | {"machine": {key: value for key, value in machine.items() if key != "tracking"}}


def leaves(node: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested keys."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_evaluation(path: Path) -> dict[str, Any]:
    """What ``evaluate`` wrote.

    Raises:
        UserError: it cannot be understood.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise cannot_be_read(path, error) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}; evaluate again, or remove it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not the result of an evaluation; evaluate again, or remove it")
    return content


def _health(path: Path) -> dict[str, Any] | None:
    try:
        there = bool(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise cannot_be_read(path, error) from error
    record = read_record(path)
    if record is None and there:
        raise UserError(f"{path}: cannot be understood; it was not written by pretrain: remove it")
    return record


def _starts(folder: Path) -> list[Start]:
    """One for each of TensorBoard's files: every process that began to train has made its own."""
    found = []
    for file in folder.glob("events.out.tfevents.*"):
        seconds, _, rest = file.name.removeprefix("events.out.tfevents.").partition(".")
        if seconds.isdigit():
            host = re.sub(r"\.\d+\.\d+$", "", rest)
            found.append(Start(datetime.fromtimestamp(int(seconds), UTC), host, _first_step(file)))
    return sorted(found, key=lambda start: (start.when, start.first_step or 0))


def _first_step(file: Path) -> int | None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    try:
        # What MetricsLog asked to be purged: every step from here on is this process's.
        return next((int(event.step) for event in EventFileLoader(str(file)).Load() if event.step), None)
    except Exception:  # its readers raise what they meet; the start is shown without its step
        return None


def _warnings(path: Path) -> list[str]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if re.search(r"damaged|broken|stopp|warning", line)]
