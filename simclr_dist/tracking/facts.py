"""What a run's folder holds beside its metrics, as trackers take it: flat names, numbers and files."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from simclr_dist.errors import UserError
from simclr_dist.reporting.facts import read_config, read_evaluation, without_tracking
from simclr_dist.run.metrics_log import read_run_facts
from simclr_dist.run.trackers import tracking_folder
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.paths import in_utf8
from simclr_dist.tracking.sink import About

_FILES = ("health.json", "anomalies.json", "report.html")


def read_about(run_dir: Path) -> About:
    """
    Raises:
        UserError: its config.yaml cannot be read.
    """
    config, facts = _sendable(without_tracking(read_config(run_dir / "config.yaml"))), read_run_facts(run_dir)
    total = facts.get("total_steps")
    return About(run_dir, config, str(facts.get("code", "")), total if isinstance(total, int) else None)


def _sendable(value: Any) -> Any:
    """The config with its texts in UTF-8: a path in it may hold other bytes."""
    if isinstance(value, dict):
        return {key: _sendable(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_sendable(entry) for entry in value]
    return in_utf8(value) if isinstance(value, str) else value


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

    Where results of several images or protocols have the same name, each of them has its source and eight hex digits of
    both behind it. Files of ``evaluate`` that cannot be understood are left out.
    """
    found: list[_Number] = []
    for path in sorted(run_dir.glob("evaluation_*.json")):
        try:
            found += list(_numbers(read_evaluation(path)))
        except (UserError, KeyError, TypeError, ValueError):
            continue
    several: dict[str, set[str]] = {}
    for number in found:
        several.setdefault(number.name, set()).add(number.of)
    for name, of, step, value in found:
        yield f"{name}/{of}" if len(several[name]) > 1 else name, step, value


class _Number(NamedTuple):
    name: str
    of: str
    """The same for the same images and protocol."""
    step: int
    value: float


def _numbers(content: dict[str, Any]) -> Iterator[_Number]:
    step, of = int(content["steps_done"]), _images_and_protocol(content)
    for row in content.get("rows", []):
        yield _Number(_name(content["method"], row["name"], row["labels"]), of, step, float(row["mean"]))
    for point in content.get("points", []):
        labels = f"{point['labels_per_class']} a class"
        name = _name("label-curve", f"{point['classifier']} {point['features']}", labels)
        yield _Number(name, of, step, float(point["mean"]))


def _images_and_protocol(content: dict[str, Any]) -> str:
    data, protocol = content.get("data", {}), content.get("protocol", {})
    digits = hashlib.sha256(json.dumps([data, protocol], sort_keys=True).encode()).hexdigest()[:8]
    return _word(f"{data.get('source', '')} {digits}" if isinstance(data, dict) else digits)


def _name(*words: str) -> str:
    return "/".join(["evaluation", *map(_word, words)])


def _word(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text.replace("%", "percent")).strip("_")
