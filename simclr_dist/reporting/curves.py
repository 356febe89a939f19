"""Charts from the metrics of the runs, and from what ``evaluate`` found."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from simclr_dist.config.metric import ONLINE, Metric
from simclr_dist.reporting import Missing
from simclr_dist.reporting.anomalies import anomaly_marks
from simclr_dist.reporting.charts import Series, line_chart
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.health import band_marks
from simclr_dist.reporting.markup import Html, joined, tag

FIRST = {"loss": Metric(title="loss")}
LAST = {
    "learning_rate": Metric(title="learning rate", from_zero=True),
    "gradient_norm": Metric(title="gradient norm", from_zero=True),
}
SPEED = {
    "images_per_second": Metric(title="throughput", unit="images/s", from_zero=True),
    "data_wait_share": Metric(title="share of the step spent waiting for images", unit="%", from_zero=True),
}
_NO_CURVE = ("step", "epoch", "step_seconds", "skipped", "returned_to_step")


def training_curves(runs: Sequence[Facts]) -> Html:
    """What was optimised and how it went: the loss, the methods' metrics, and every number that is not described."""
    described = {name: metric for run in runs for name, metric in run.descriptions.items()}
    rank = {"headline": 0, "curve": 1, "collapse": 2}
    ordered = sorted(described.items(), key=lambda each: (rank[each[1].role], each[0] not in ONLINE))
    known = {**FIRST, **dict(ordered), **LAST}
    drawn = {*known, *SPEED, *_NO_CURVE}
    found = {key: Metric(title=key) for run in runs for line in run.metrics for key in line if key not in drawn}
    return _charts(runs, known | found)


def speed_curves(runs: Sequence[Facts]) -> Html:
    """How fast it went and what it waited for."""
    return _charts(runs, SPEED)


def _charts(runs: Sequence[Facts], curves: dict[str, Metric]) -> Html:
    if not any(run.metrics for run in runs):
        raise Missing("No step is done yet.")
    charts = []
    for key, curve in curves.items():
        series = [
            Series(
                run.name,
                [(line["step"] or 0, _scaled(line[key], curve.factor)) for line in run.metrics if key in line],
                n,
            )
            for n, run in enumerate(runs)
        ]
        series = [one for one in series if one.points]
        if series:
            marks = anomaly_marks(runs) if key == "loss" else band_marks(runs, key)
            title = f"{curve.title[:1].upper()}{curve.title[1:]}{f': {curve.text}' if curve.text else ''}"
            charts.append(line_chart(title, series, unit=curve.unit, zero=curve.from_zero, marks=marks))
    return tag("div", charts, class_="cards")


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
            title = f"{classifier}, held-out accuracy after {content.get('steps_done', '?')} steps ({name})"
            charts.append(line_chart(title, series, unit="%", x_name="labels a class", log_x=True))
    if not charts:
        raise Missing(f"No label curve yet; make it with: simclr-dist evaluate {run.path.name}.")
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
        columns = [c for c in dict.fromkeys(k for row in rows for k in row) if not re.search(r"sha256|details", c)]
        if rows:
            head = tag("tr", [tag("th", column) for column in columns])
            body = [tag("tr", [tag("td", _cell(row.get(column))) for column in columns]) for row in rows]
            table = tag("div", tag("table", head, body), class_="scroll")
            title = f"{content.get('method', 'Label curve')} ({name})"
            parts.append(tag("details", tag("summary", title), table))
    return joined(*parts)


def _cell(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(entry, (int, float)) for entry in value):
        spread = f" ± {np.std(value, ddof=1):.3f}" if len(value) > 1 else ""
        return f"{np.mean(value):.3f}{spread}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value in (None, [], {}) else str(value)[:60]
