"""What a run's folder holds beside its metrics, as trackers take it: flat names, numbers and files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from simclr_dist.errors import UserError
from simclr_dist.reporting.facts import read_config, read_evaluation, without_tracking
from simclr_dist.run.metrics_log import read_run_facts
from simclr_dist.run.trackers import tracking_folder
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.tracking.sink import About

_FILES = ("health.json", "anomalies.json", "report.html")


def read_about(run_dir: Path) -> About:
    """
    Raises:
        UserError: its config.yaml cannot be read.
    """
    config, facts = without_tracking(read_config(run_dir / "config.yaml")), read_run_facts(run_dir)
    total = facts.get("total_steps")
    return About(run_dir, config, str(facts.get("code", "")), total if isinstance(total, int) else None)


def result_files(run_dir: Path) -> list[Path]:
    """The files of a run that people look at: results, report, and a copy of the config without machine.tracking.

    Raises:
        UserError: the config cannot be read.
        OSError: the copy cannot be written.
    """
    return [
        *_config_to_send(run_dir),
        *(path for name in _FILES if (path := run_dir / name).is_file()),
        *sorted(run_dir.glob("evaluation_*.json")),
    ]


def _config_to_send(run_dir: Path) -> list[Path]:
    """RUN/tracking/config.yaml, what RUN/config.yaml says but for what may hold a password."""
    path, copy = run_dir / "config.yaml", tracking_folder(run_dir) / "config.yaml"
    if not path.is_file():
        return []
    content = yaml.safe_dump(without_tracking(read_config(path)), sort_keys=False, allow_unicode=True).encode()
    if not (copy.is_file() and copy.read_bytes() == content):
        copy.parent.mkdir(exist_ok=True)
        write_atomically(copy, content)
    return [copy]


def evaluation_numbers(run_dir: Path) -> Iterator[tuple[str, int, float]]:
    """(name, steps of pretraining, accuracy in 0..1) of all that ``evaluate`` found, in names that MLflow takes too.

    Files of ``evaluate`` that cannot be understood are left out.
    """
    for path in sorted(run_dir.glob("evaluation_*.json")):
        try:
            content = read_evaluation(path)
            yield from list(_numbers(content))
        except (UserError, KeyError, TypeError, ValueError):
            continue


def _numbers(content: dict[str, Any]) -> Iterator[tuple[str, int, float]]:
    step = int(content["steps_done"])
    for row in content.get("rows", []):
        yield _name(content["method"], row["name"], row["labels"]), step, float(row["mean"])
    for point in content.get("points", []):
        labels = f"{point['labels_per_class']} a class"
        yield _name("label-curve", f"{point['classifier']} {point['features']}", labels), step, float(point["mean"])


def _name(method: str, row: str, labels: str) -> str:
    words = [re.sub(r"[^\w.-]+", "_", word.replace("%", "percent")).strip("_") for word in (method, row, labels)]
    return "/".join(["evaluation", *words])
