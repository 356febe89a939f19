"""Charts from the metrics of the runs, and from what ``evaluate`` found."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_dist.config.metric import ONLINE, Metric
from simclr_dist.reporting import Missing
from simclr_dist.reporting.anomalies import anomaly_marks
from simclr_dist.reporting.charts import Point, Series, line_chart
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.health import band_marks
from simclr_dist.reporting.markup import Html, joined, tag
from simclr_dist.terminal import typed

_ALWAYS = {
    "loss": Metric(title="loss"),
    "learning_rate": Metric(title="learning rate", from_zero=True),
    "gradient_norm": Metric(title="gradient norm", from_zero=True),
    "images_per_second": Metric(title="throughput", unit="images/s", from_zero=True),
    "data_wait_share": Metric(title="share of the step spent waiting for images", unit="%", from_zero=True),
    "processes": Metric(title="processes", from_zero=True),
}
_SPEED = ("images_per_second", "data_wait_share", "processes")
_NO_CURVE = ("step", "epoch", "step_seconds", "skipped", "returned_to_step")
_ORDER = ("loss", "headline", "online", "curve", "collapse", "learning_rate", "gradient_norm", "unknown")


class _Curve(NamedTuple):
    """What one chart is of: runs whose methods call a metric alike share it, and others have a chart of their own."""

    name: str
    title: str
    unit: str


def training_curves(runs: Sequence[Facts]) -> Html:
    """What was optimised and how it went: the loss, the methods' metrics, and every number that is not described."""
    found = _curves(runs)
    wanted = [curve for curve in found if curve.name not in (*_SPEED, *_NO_CURVE)]
    return _charts(runs, {curve: found[curve] for curve in sorted(wanted, key=lambda each: _rank(runs, each))})


def speed_curves(runs: Sequence[Facts]) -> Html:
    """How fast it went, what it waited for and, where that changed, how many processes it had."""
    same = len({line["processes"] for run in runs for line in run.metrics if "processes" in line}) < 2
    wanted = [name for name in _SPEED if name != "processes" or not same]
    found = _curves(runs)
    return _charts(runs, {curve: metrics for curve, metrics in found.items() if curve.name in wanted})


def _curves(runs: Sequence[Facts]) -> dict[_Curve, list[Metric | None]]:
    """Every curve -> what each run says of it; None: a run that has another curve of that name, or none."""
    found: dict[_Curve, list[Metric | None]] = {}
    for number, run in enumerate(runs):
        for name in dict.fromkeys(name for line in run.metrics for name in line):
            metric = _ALWAYS.get(name) or run.described(name)
            found.setdefault(_Curve(name, metric.title, metric.unit), [None] * len(runs))[number] = metric
    return found


def _rank(runs: Sequence[Facts], curve: _Curve) -> int:
    if curve.name in _ALWAYS:
        return _ORDER.index(curve.name)
    said = [run.descriptions[curve.name] for run in runs if curve.name in run.descriptions]
    if curve.name in ONLINE:
        return _ORDER.index("online")
    roles = [metric.role for metric in said if (metric.title, metric.unit) == (curve.title, curve.unit)]
    return _ORDER.index(roles[0] if roles and roles[0] in _ORDER else "unknown")


def _charts(runs: Sequence[Facts], curves: dict[_Curve, list[Metric | None]]) -> Html:
    if not any(run.metrics for run in runs):
        raise Missing("No step is done yet.")
    charts = []
    for curve, metrics in curves.items():
        own = [(number, run, metric) for number, (run, metric) in enumerate(zip(runs, metrics, strict=True)) if metric]
        series = [Series(run.name, _points(run, curve.name, metric), number) for number, run, metric in own]
        marked = [run for _, run, _ in own]
        marks = anomaly_marks(marked) if curve.name == "loss" else band_marks(marked, curve.name)
        texts = {metric.text for _, _, metric in own}
        text = texts.pop() if len(texts) == 1 else ""
        title = f"{curve.title[:1].upper()}{curve.title[1:]}"
        zero = all(metric.from_zero for _, _, metric in own)
        charts.append(line_chart(title, series, unit=curve.unit, text=text, zero=zero, marks=marks))
    return tag("div", charts, class_="cards")


def _points(run: Facts, name: str, metric: Metric) -> list[Point]:
    return [(line["step"] or 0, _scaled(line[name], metric.factor)) for line in run.metrics if name in line]


def _scaled(value: Any, factor: float) -> float | None:
    return value * factor if isinstance(value, (int, float)) else None


_COLORS = {"pretrained": 0, "untrained": 1, "raw pixels": 8}


def label_curves(run: Facts) -> Html:
    """Accuracy against labels a class, one chart for each file and classifier."""
    charts = []
    for name, content in run.evaluations:
        lines = label_lines(content)
        for classifier in dict.fromkeys(key[0] for key in lines):
            series = [
                Series(what, sorted(points), _COLORS.get(what, 2 + n))
                for n, ((group, what), points) in enumerate(lines.items())
                if group == classifier
            ]
            steps = content.get("steps_done", "?")
            title = f"{classifier}, held-out accuracy after {steps} steps{run.whose(content)} ({name})"
            charts.append(line_chart(title, series, unit="%", x_name="labels a class", log_x=True))
    if not charts:
        raise Missing(
            f"No label curve yet; where the images have labels, make it with: {typed('evaluate', run.path.name)}"
        )
    return tag("div", charts, class_="cards")


def label_lines(content: dict[str, Any]) -> dict[tuple[str, str], list[tuple[float, float | None]]]:
    """(classifier, features) -> (labels a class, accuracy in percent); empty when there is nothing like it."""
    lines: dict[tuple[str, str], list[tuple[float, float | None]]] = {}
    for row in content.get("points") or content.get("rows") or []:
        if not isinstance(row, dict):
            continue
        classifier, features, labels = row.get("classifier"), row.get("features"), row.get("labels_per_class")
        if "name" in row:
            classifier, _, features = str(row["name"]).partition(", ")
            counted = re.fullmatch(r"(\d+) a class", str(row.get("labels")))
            labels = int(counted[1]) if counted else None
        if isinstance(labels, int) and labels > 0 and isinstance(row.get("mean"), (int, float)):
            lines.setdefault((str(classifier), str(features)), []).append((labels, 100 * row["mean"]))
    return lines


def evaluation_tables(run: Facts) -> Html:
    """Every table that an evaluation file holds, whatever its method."""
    parts = []
    for name, content in run.evaluations:
        rows = [row for key in ("points", "rows") for row in content.get(key) or [] if isinstance(row, dict)]
        columns = [
            c
            for c in dict.fromkeys(k for row in rows for k in row)
            if not re.search(r"sha256|details|class_iou|confusion", c)
        ]
        if rows:
            head = tag("tr", [tag("th", column) for column in columns])
            body = [tag("tr", [tag("td", _cell(row.get(column))) for column in columns]) for row in rows]
            table = tag("div", tag("table", head, body), class_="scroll")
            title = f"{content.get('method', 'Label curve')}{run.whose(content)} ({name})"
            parts.append(tag("details", tag("summary", title), table))
    return joined(*parts)


def _cell(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(entry, (int, float)) for entry in value):
        spread = f" ± {np.std(value, ddof=1):.3f}" if len(value) > 1 else ""
        return f"{np.mean(value):.3f}{spread}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value in (None, [], {}) else str(value)[:60]
