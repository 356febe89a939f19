"""How a run compared with the bands of its config: a table, and marks on the curves."""

from collections.abc import Sequence
from typing import Any

from simclr_dist.guards.health_bands import INSIDE, OUTSIDE, range_of, value_of
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.marks import Mark
from simclr_dist.reporting.markup import Html, joined, tag


def health_table(run: Facts) -> Html:
    """Every band with what was found, who answers for the bands, and what nobody has published."""
    record = run.health or {"bands": [], "sources": {}, "unpublished": {}}
    head = ("metric", "percent of the run", "step", "band", "found", "")
    lines = [
        tag(
            "tr",
            tag("td", metric.title),
            [tag("td", cell, class_="number") for cell in (f"{band['percent']:g}", band["step"])],
            tag("td", range_of(band, metric), class_="number"),
            tag("td", "-" if band["value"] is None else value_of(band, metric), class_="number"),
            tag("td", band["outcome"]),
            class_="differs" if band["outcome"] == OUTSIDE else None,
        )
        for band in record["bands"]
        for metric in [run.described(band["metric"])]
    ]
    text = "Means over the last epoch up to the step. On the curves bands are green where the run was inside, else red."
    table = tag("div", tag("table", tag("tr", [tag("th", cell) for cell in head]), lines), class_="scroll")
    sources = [tag("li", f"{run.described(key).title}: {source}") for key, source in record["sources"].items()]
    unknown = [
        tag("li", f"{run.described(key).title} at {listed} %: nobody has published a value")
        for key, percents in record["unpublished"].items()
        for listed in [", ".join(f"{percent:g}" for percent in percents)]
    ]
    return joined(
        joined(tag("p", text, class_="soft"), table) if lines else None,
        tag("ul", sources, unknown) if sources or unknown else None,
    )


def band_marks(runs: Sequence[Facts], metric: str) -> list[Mark]:
    """The bands of a metric that a run has been compared with; one that several share is red when one was outside."""
    marks: dict[tuple[Any, ...], Mark] = {}
    for run in runs:
        for band in run.health["bands"] if run.health else []:
            if band["metric"] == metric and band["outcome"] in (INSIDE, OUTSIDE):
                key = (band["step"], band["low"], band["high"])
                before = marks.get(key)
                value, bounds = (say(band, run.described(metric)) for say in (value_of, range_of))
                text = f"{run.name}: {value} at step {band['step']}, {band['outcome']} {bounds}"
                inside = band["outcome"] == INSIDE and (before is None or before.inside)
                marks[key] = Mark(*key, inside, f"{before.text}; {text}" if before else text)
    return list(marks.values())
