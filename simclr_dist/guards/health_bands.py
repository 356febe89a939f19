"""A run compares itself with the bands of its config's ``health`` section, and warns where it is outside.

Each band is looked at once, when its step is done: the mean of the metric over the last epoch up to that step, from the
lines of metrics.jsonl, which restarts neither lose nor repeat. What was found stands in the run folder's health.json,
and what stands there is not looked at again, wherever the run was killed. Nothing here touches the trajectory.
"""

import json
import math
from functools import reduce
from pathlib import Path
from typing import Any

from simclr_dist.config import Health
from simclr_dist.config.health import METRICS
from simclr_dist.log import log
from simclr_dist.run.metrics_log import read_metrics, write_record

FILE = "health.json"
WAITING, INSIDE, OUTSIDE, UNCHECKED = "not reached", "inside", "outside", "not checked"
NAMES = {
    "contrastive_top1": "contrastive top-1",
    "online_knn_top1": "online kNN top-1",
    "online_linear_top1": "online linear top-1",
}
# (metric is of the encoder, value is below the band) -> what to look at.
_LOOK_AT = {
    (False, True): "the learning rate, recipe.loss.temperature and, in metrics.jsonl, embedding_std (0: collapse)",
    (False, False): "the views (simclr-dist preview: are they too much alike?) and recipe.loss.temperature",
    (
        True,
        True,
    ): "the views (simclr-dist preview), the learning rate and, in metrics.jsonl, embedding_std (0: collapse)",
    (True, False): "whether images, classes and recipe are those that the band is of",
}


class HealthCheck:
    """The bands of a run. One process looks at them (``active``); the others' calls do nothing."""

    def __init__(self, run_dir: Path, health: Health, steps: int, steps_per_epoch: int, *, active: bool) -> None:
        """Take up what an earlier process of the run found; ``steps`` is the length of the whole run."""
        self.path, self._metrics, self._window = run_dir / FILE, run_dir / "metrics.jsonl", steps_per_epoch
        self._health, self._active = health, active
        record = read_record(self.path) if active else None
        self._notices: list[str] = record["notices"] if record else []
        found = {_identity(entry): entry for entry in (record["bands"] if record else [])}
        fresh = [
            {
                "metric": metric, "percent": percent, "step": step_of(percent, steps), "low": low, "high": high,
                "value": None, "outcome": WAITING,
            }
            for metric in METRICS
            for percent, (low, high) in health.of(metric).bands.items()
        ]  # fmt: skip
        self.entries: list[dict[str, Any]] = [found.get(_identity(entry), entry) for entry in fresh]

    def begin(self, steps_done: int, look_every_steps: int) -> None:
        """Log what will not be checked, each sentence once in the life of a run, and look at bands already passed."""
        if not self._active or not (self.entries or self._unpublished()):
            return
        for line in (self._without_looks(look_every_steps), self._without_bands()):
            if line and line not in self._notices:
                log.info("health: %s", line)
                self._notices.append(line)
        self._write()
        self.after_step(steps_done)

    def after_step(self, steps_done: int) -> None:
        """Look at the bands whose step is done and that nobody has looked at."""
        due = [entry for entry in self.entries if entry["outcome"] == WAITING and entry["step"] <= steps_done]
        if not self._active or not due:
            return
        lines = read_metrics(self._metrics)
        for entry in due:
            entry["value"], entry["outcome"] = judge(entry, lines, self._window)
            if entry["outcome"] == OUTSIDE:
                log.warning("health warning: %s", self._complaint(entry))
        # After the warning: a kill in between repeats it, and none is ever lost.
        self._write()

    def _complaint(self, entry: dict[str, Any]) -> str:
        metric, below = entry["metric"], entry["value"] < entry["low"]
        source = self._health.of(metric).source.strip().rstrip(".")
        return (
            f"{NAMES[metric]} is {entry['value']:.1f} % after {entry['percent']:g} % of the run, step {entry['step']}: "
            f"{'below' if below else 'above'} {entry['low']:g} to {entry['high']:g} %. "
            f"Band: {' '.join(source.split())}. Look at {_LOOK_AT[metric.startswith('online_'), below]}"
        )

    def _without_looks(self, look_every_steps: int) -> str:
        """The bands of the encoder in whose last epoch no look falls."""
        blind, epochs = [], []
        for entry in self.entries:
            if entry["metric"].startswith("online_") and entry["outcome"] == WAITING:
                last = entry["step"] // self._window * self._window  # the only step of the window where a look can be
                epochs.append(last // self._window)
                if not last or not look_every_steps or last % look_every_steps:
                    blind.append(entry)
        if not blind:
            return ""
        every = reduce(math.gcd, epochs)
        cure = f"; machine.evaluate_every_epochs={every} looks at all of them" if every and all(epochs) else ""
        return f"bands that will not be checked, because no look at the encoder falls on them: {_listed(blind)}{cure}"

    def _without_bands(self) -> str:
        unknown = self._unpublished()
        return f"nobody has published a value, so nothing is checked: {_listed(unknown)}" if unknown else ""

    def _unpublished(self) -> list[dict[str, Any]]:
        return [{"metric": m, "percent": percent} for m in METRICS for percent in self._health.of(m).unpublished]

    def _write(self) -> None:
        record = {
            "bands": self.entries,
            "sources": {m: self._health.of(m).source for m in METRICS if self._health.of(m).bands},
            "unpublished": {m: self._health.of(m).unpublished for m in METRICS if self._health.of(m).unpublished},
            "notices": self._notices,
        }
        write_record(self.path, record)


def judge(band: dict[str, Any], lines: list[dict[str, Any]], window: int) -> tuple[float | None, str]:
    """The mean in % of a band's metric over the ``window`` steps up to its own, and how it lies; None: no value."""
    last = band["step"]
    values = [line.get(band["metric"]) for line in lines if last - window < line["step"] <= last]
    known = [value for value in values if value is not None]
    if not known:
        return None, UNCHECKED
    mean = 100 * math.fsum(known) / len(known)
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


def _listed(entries: list[dict[str, Any]]) -> str:
    """online kNN top-1 at 5, 10 %; online linear top-1 at 100 %."""
    at: dict[str, list[str]] = {}
    for entry in entries:
        at.setdefault(entry["metric"], []).append(f"{entry['percent']:g}")
    return "; ".join(f"{NAMES[metric]} at {', '.join(percents)} %" for metric, percents in at.items())
