"""A run compares itself with the bands of its config's ``health`` section, and warns where it is outside.

Each band is checked once, when its step is done: the mean of the metric over the last epoch up to that step, from the
lines of metrics.jsonl, which restarts neither lose nor repeat. What was found stands in the run folder's health.json,
and what stands there is not checked again, wherever the run was killed. Nothing here touches the trajectory.
"""

import json
import math
from functools import reduce
from pathlib import Path
from typing import Any

from simclr_dist.config import Config
from simclr_dist.config.metric import ONLINE, Metric
from simclr_dist.log import log
from simclr_dist.run.metric_records import records_of
from simclr_dist.run.metrics_log import write_record

FILE = "health.json"
WAITING, INSIDE, OUTSIDE, UNCHECKED = "not reached", "inside", "outside", "not checked"


class HealthCheck:
    """The bands of a run. One process checks them (``active``); the others' calls do nothing."""

    def __init__(self, run_dir: Path, config: Config, steps: int, steps_per_epoch: int, *, active: bool) -> None:
        """Take up what an earlier process of the run found; ``steps`` is the length of the whole run."""
        self.path, self._metrics, self._window = run_dir / FILE, run_dir / "metrics.jsonl", steps_per_epoch
        self._health, self._metric, self._active = config.health, config.metrics, active
        record = read_record(self.path) if active else None
        self._notices: list[str] = record["notices"] if record else []
        found = {_identity(entry): entry for entry in (record["bands"] if record else [])}
        fresh = [
            {
                "metric": metric, "percent": percent, "step": step_of(percent, steps), "low": low, "high": high,
                "value": None, "outcome": WAITING,
            }
            for metric, own in config.health.items()
            for percent, (low, high) in own.bands.items()
        ]  # fmt: skip
        self.entries: list[dict[str, Any]] = [found.get(_identity(entry), entry) for entry in fresh]

    def begin(self, steps_done: int, evaluate_every_steps: int) -> None:
        """Log what will not be checked, each sentence once in the life of a run, and check bands already passed.

        ``evaluate_every_steps``: steps between online evaluations; 0: there are none.
        """
        if not self._active or not (self.entries or self._unpublished()):
            return
        for line in (self._without_evaluation(evaluate_every_steps), self._without_bands()):
            if line and line not in self._notices:
                log.info("health: %s", line)
                self._notices.append(line)
        self._write()
        self.after_step(steps_done)

    def after_step(self, steps_done: int) -> None:
        """Check the bands whose step is done and that were not checked yet."""
        due = [entry for entry in self.entries if entry["outcome"] == WAITING and entry["step"] <= steps_done]
        if not self._active or not due:
            return
        steps = [entry["step"] for entry in due]
        lines = records_of(self._metrics, range(min(steps) - self._window + 1, max(steps) + 1))
        for entry in due:
            entry["value"], entry["outcome"] = judge(entry, lines, self._window, self._metric[entry["metric"]].factor)
            if entry["outcome"] == OUTSIDE:
                log.warning("health warning: %s", self._complaint(entry))
        # After the warning: a kill in between repeats it, and none is ever lost.
        self._write()

    def _complaint(self, entry: dict[str, Any]) -> str:
        metric, below = self._metric[entry["metric"]], entry["value"] < entry["low"]
        source = self._health[entry["metric"]].source.strip().rstrip(".")
        cure = metric.below if below else metric.above
        return (
            f"{metric.title} is {value_of(entry, metric)} after {entry['percent']:g} % of the run, step "
            f"{entry['step']}: {'below' if below else 'above'} {range_of(entry, metric)}. "
            f"Band: {' '.join(source.split())}.{f' Check {cure}' if cure else ''}"
        )

    def _without_evaluation(self, evaluate_every_steps: int) -> str:
        """The bands of the encoder in whose last epoch no online evaluation falls."""
        blind, epochs = [], []
        for entry in self.entries:
            if entry["metric"] in ONLINE and entry["outcome"] == WAITING:
                last = entry["step"] // self._window * self._window  # the only step of the window that may have one
                epochs.append(last // self._window)
                if not last or not evaluate_every_steps or last % evaluate_every_steps:
                    blind.append(entry)
        if not blind:
            return ""
        every = reduce(math.gcd, epochs)
        cure = f"; machine.evaluate_every_epochs={every} checks all of them" if every and all(epochs) else ""
        return f"bands that no online evaluation falls on will not be checked: {self._listed(blind)}{cure}"

    def _without_bands(self) -> str:
        unknown = self._unpublished()
        return f"nobody has published a value, so nothing is checked: {self._listed(unknown)}" if unknown else ""

    def _unpublished(self) -> list[dict[str, Any]]:
        return [
            {"metric": name, "percent": percent} for name, own in self._health.items() for percent in own.unpublished
        ]

    def _listed(self, entries: list[dict[str, Any]]) -> str:
        """online kNN top-1 at 5, 10 %; online linear top-1 at 100 %."""
        at: dict[str, list[str]] = {}
        for entry in entries:
            at.setdefault(self._metric[entry["metric"]].title, []).append(f"{entry['percent']:g}")
        return "; ".join(f"{title} at {', '.join(percents)} %" for title, percents in at.items())

    def _write(self) -> None:
        record = {
            "bands": self.entries,
            "sources": {name: own.source for name, own in self._health.items() if own.bands},
            "unpublished": {name: own.unpublished for name, own in self._health.items() if own.unpublished},
            "titles": {name: self._metric[name].title for name in self._health},
            "notices": self._notices,
        }
        write_record(self.path, record)


def value_of(band: dict[str, Any], metric: Metric) -> str:
    """What was found for a band, in the unit of its metric: ``28.4 %``, ``3.1 nats``, ``0.913``."""
    return metric.shown(band["value"] / metric.factor)


def range_of(band: dict[str, Any], metric: Metric) -> str:
    """Its bounds in the same unit: ``20 to 30 %``."""
    return f"{band['low']:g} to {band['high']:g}{f' {metric.unit}' if metric.unit else ''}"


def judge(band: dict[str, Any], lines: list[dict[str, Any]], window: int, factor: float) -> tuple[float | None, str]:
    """The mean, times ``factor``, of a band's metric over the ``window`` steps up to its own; and how it lies."""
    last = band["step"]
    values = [line.get(band["metric"]) for line in lines if last - window < line["step"] <= last]
    known = [value for value in values if value is not None]
    if not known:
        return None, UNCHECKED
    mean = factor * math.fsum(known) / len(known)
    return mean, INSIDE if band["low"] <= mean <= band["high"] else OUTSIDE


def step_of(percent: float, steps: int) -> int:
    """The step, counted from 1, with which ``percent`` of a run of so many steps are done."""
    return max(1, math.ceil(percent * steps / 100 - 1e-6))


def read_record(path: Path) -> dict[str, Any] | None:
    """What stands in a health.json; None when there is none, or none that this module wrote."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = {"metric", "percent", "step", "low", "high", "value", "outcome"}
        record.setdefault("notices", record.pop("told", None))  # as it was called by earlier versions
        whole = isinstance(record["notices"], list) and all(known <= set(entry) for entry in record["bands"])
        return record if whole and {"sources", "unpublished"} <= set(record) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[key] for key in ("metric", "percent", "step", "low", "high"))
