"""The page of a report: what stands on it, in which order."""

from collections.abc import Callable, Sequence
from functools import partial

from simclr_dist.reporting import Missing, curves, gallery, tables
from simclr_dist.reporting.anomalies import anomaly_table
from simclr_dist.reporting.answer import answers
from simclr_dist.reporting.context import ReportContext, open_context
from simclr_dist.reporting.document import Section, document
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.health import health_table
from simclr_dist.reporting.markup import Html, folded, joined, or_sentence, sentence, tag
from simclr_dist.reporting.probe_grid import grids, has_grid
from simclr_dist.reporting.segmentation import has_segmentation, segmentation


def page(runs: Sequence[Facts], images: int) -> Html:
    """The whole page; ``images`` held-out images of each run are shown, at most."""
    sections = []
    if len(runs) > 1:
        sections.append(_section("differences", "Differences", lambda: tables.differences(runs)))
    sections += [
        _section("training", "Training", lambda: curves.training_curves(runs)),
        _section("speed", "Speed", lambda: curves.speed_curves(runs)),
    ]
    for number, run in enumerate(runs, 1):
        of = f" of {run.name}" if len(runs) > 1 else ""
        if run.anomalies:
            made = partial(anomaly_table, run.anomalies)
            sections.append(_section(f"run{number}-anomalies", f"Anomalies{of}", made))
        if run.health is not None:
            sections.append(_section(f"run{number}-health", f"Health{of}", partial(health_table, run)))
    for number, run in enumerate(runs, 1):
        if has_segmentation(run):
            title = "Segmentation" + (f" of {run.name}" if len(runs) > 1 else "")
            sections.append(_section(f"run{number}-segmentation", title, partial(segmentation, run)))
        if has_grid(run):
            title = "Grid of probes" + (f" of {run.name}" if len(runs) > 1 else "")
            sections.append(_section(f"run{number}-grid", title, partial(grids, run)))
        sections += _encoder_sections(run, f"run{number}-", f"{run.name}: " if len(runs) > 1 else "", images)
    sections += [
        _section("recipe", "Recipe", lambda: folded("All keys", tables.config_table(runs, "recipe"))),
        _section("machine", "Machine", lambda: folded("All keys", tables.config_table(runs, "machine"))),
    ]
    for number, run in enumerate(runs, 1):
        title = "Starts" + (f" of {run.name}" if len(runs) > 1 else "")
        sections.append(_section(f"run{number}-starts", title, partial(tables.starts, run)))
    title = " and ".join(run.name for run in runs)
    return document("report", title, [*answers(runs), tables.summary(runs)], sections)


def _encoder_sections(run: Facts, key: str, prefix: str, images: int) -> list[Section]:
    """The sections that need the run's weights and images."""
    label_curve = _section(
        f"{key}labels",
        f"{prefix}Accuracy against labels",
        # Each missing by itself: knn alone draws no curve, and has its table.
        lambda: joined(or_sentence(lambda: curves.label_curves(run)), curves.evaluation_tables(run)),
    )
    try:
        context = open_context(run, images)
    except Missing as missing:
        return [label_curve, Section(f"{key}features", f"{prefix}Features", sentence(missing))]
    parts: list[tuple[str, str, Callable[[ReportContext], Html]]] = [
        (
            "features",
            "Alignment and uniformity",
            lambda s: joined(tag("p", f"Images: {s.remark}."), gallery.sphere(s)),
        ),
        ("confusion", "Confusion matrix", gallery.confusions),
        ("neighbours", "Nearest neighbours", gallery.neighbour_rows),
        ("map", "Map of the features", lambda s: gallery.map_of(s, f"{key}map")),
        ("kernels", "First layer and feature maps", gallery.kernels),
        ("views", "Views", gallery.view_pairs),
    ]
    return [
        label_curve,
        *(_section(f"{key}{name}", f"{prefix}{title}", partial(make, context)) for name, title, make in parts),
    ]


def _section(key: str, title: str, make: Callable[[], Html]) -> Section:
    return Section(key, title, or_sentence(make))
