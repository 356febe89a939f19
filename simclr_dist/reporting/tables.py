"""Recipe, machine, starts and differences as tables."""

from collections.abc import Sequence
from typing import Any

from simclr_dist.reporting import Missing
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.markup import Html, joined, number, tag

_OWN = ("machine.run_dir",)
_NONE = "(not there)"


def rows(head: Sequence[Any], body: Sequence[Sequence[Any]], numeric: bool = False) -> Html:
    """A table; all columns but the first are numbers when ``numeric``."""
    kind = "number" if numeric else None
    lines = [tag("tr", [tag("td", cell, class_=kind if n else None) for n, cell in enumerate(row)]) for row in body]
    return tag("div", tag("table", tag("tr", [tag("th", cell) for cell in head]), lines), class_="scroll")


def summary(runs: Sequence[Facts]) -> Html:
    """Where each run stands."""
    headlines = [each for run in runs for each in run.descriptions.items() if each[1].role == "headline"]
    # Methods with the same title for the same metric share a column, whatever else they say of it.
    columns = {(name, metric.title, metric.unit): metric for name, metric in headlines}
    body = []
    for run in runs:
        last: dict[str, Any] = dict(run.metrics[-1]) if run.metrics else {}
        shown = [
            metric.shown(last[name])
            if last.get(name) is not None and (run.described(name).title, run.described(name).unit) == (title, unit)
            else "-"
            for (name, title, unit), metric in columns.items()
        ]
        step, epoch, loss, speed = (number(last.get(key)) for key in ("step", "epoch", "loss", "images_per_second"))
        body.append([run.name, run.method or "-", step, epoch, loss, *shown, speed])
    titles = [metric.title for metric in columns.values()]
    return rows(["run", "method", "steps done", "epoch", "loss", *titles, "images/s"], body, numeric=True)


def config_table(runs: Sequence[Facts], half: str) -> Html:
    """One half of the configs, a column for each run; what differs is marked."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key.startswith(f"{half}."))
    if not keys:
        raise Missing("There is no config.yaml.")
    lines = []
    for key in keys:
        values = [number(run.config.get(key, _NONE)) for run in runs]
        differs = "differs" if len(set(values)) > 1 and key not in _OWN else None
        lines.append(tag("tr", tag("td", key.partition(".")[2]), [tag("td", v) for v in values], class_=differs))
    head = tag("tr", tag("th", "key"), [tag("th", run.name if len(runs) > 1 else "value") for run in runs])
    return tag("div", tag("table", head, lines), class_="scroll")


def differences(runs: Sequence[Facts]) -> Html:
    """The keys whose values are not the same in all runs: recipe first, because it alone decides the trajectory."""
    parts = []
    keys = dict.fromkeys(key for run in runs for key in run.config)
    for half, same in (
        ("recipe", "The recipes are the same: with the same images the trajectories agree to float rounding."),
        ("machine", "The machines are the same."),
    ):
        found = [
            [key, *values]
            for key in keys
            if key.startswith(f"{half}.") and key not in _OWN
            if len(set(values := [number(run.config.get(key, _NONE)) for run in runs])) > 1
        ]
        parts.append(tag("h3", half.capitalize()))
        parts.append(rows(["key", *(run.name for run in runs)], found) if found else tag("p", same))
    return joined(*parts)


def starts(run: Facts) -> Html:
    """When the run was started and started again, and what its log complains of."""
    if not run.starts:
        raise Missing("TensorBoard's files, which say when the run was started, are not there.")
    count = len(run.starts) - 1
    text = "Never restarted." if not count else f"Restarted {count} time{'s' if count > 1 else ''}."
    body = [[f"{s.when:%Y-%m-%d %H:%M:%S} UTC", s.host, number(s.first_step)] for s in run.starts]
    complaints = tag("ul", [tag("li", line) for line in run.warnings[-20:]]) if run.warnings else None
    return joined(tag("p", text), rows(["started", "host", "first step"], body), complaints)
