"""The page: what stands on it, in which order, and the file that it is written to."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from simclr_dist import __version__
from simclr_dist.errors import UserError
from simclr_dist.reporting import Missing, curves, gallery, tables
from simclr_dist.reporting.anomalies import anomaly_table
from simclr_dist.reporting.answer import answers
from simclr_dist.reporting.context import ReportContext, open_context
from simclr_dist.reporting.facts import Facts
from simclr_dist.reporting.health import health_table
from simclr_dist.reporting.markup import Html, folded, joined, or_sentence, sentence, tag
from simclr_dist.storage.atomic import write_atomically
from simclr_dist.storage.temporary import remove_leftovers

MARK = '<meta name="generator" content="simclr_dist report'
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class Section(NamedTuple):
    """A heading and what stands below it."""

    key: str
    title: str
    content: Html


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
        sections += _encoder_sections(run, f"run{number}-", f"{run.name}: " if len(runs) > 1 else "", images)
    sections += [
        _section("recipe", "Recipe", lambda: folded("All keys", tables.config_table(runs, "recipe"))),
        _section("machine", "Machine", lambda: folded("All keys", tables.config_table(runs, "machine"))),
    ]
    for number, run in enumerate(runs, 1):
        title = "Starts" + (f" of {run.name}" if len(runs) > 1 else "")
        sections.append(_section(f"run{number}-starts", title, partial(tables.starts, run)))
    return _document(runs, sections)


def write_page(out: Path, content: Html) -> None:
    """Write the page; only an earlier report may be replaced.

    Raises:
        UserError: another file stands there, or the folder cannot be written.
    """
    check_replaceable(out)
    remove_leftovers(out.parent)
    try:
        write_atomically(out, content.encode(errors="replace"))
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}; choose another name") from error


def check_replaceable(out: Path) -> None:
    """Refuse to replace what is not a report.

    Raises:
        UserError: a folder or another file stands there.
    """
    if not out.exists():
        if not out.parent.is_dir():
            raise UserError(f"--out: {out.parent} is not a folder; make it first")
        return
    if out.is_dir() or MARK.encode() not in out.read_bytes()[:2000]:
        raise UserError(f"--out: {out} is there and is no report of simclr-dist; choose another name, or remove it")


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


def _document(runs: Sequence[Facts], sections: Sequence[Section]) -> Html:
    title = " and ".join(run.name for run in runs)
    style, script = (Html((files(__package__) / name).read_text("utf-8")) for name in ("page.css", "page.js"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Html(f'{MARK} {__version__}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", f"{title} - simclr_dist report"),
        tag("style", style),
    )
    links = tag("nav", [tag("a", section.title, href=f"#{section.key}") for section in sections])
    body = tag(
        "body",
        tag("header", tag("h1", title), answers(runs), tables.summary(runs), links),
        tag("main", [tag("section", tag("h2", s.title), s.content, id=s.key) for s in sections]),
        tag("footer", tag("p", f"Made by simclr-dist {__version__} report.", class_="soft")),
        tag("div", id="tip"),
        tag("script", script),
    )
    return Html(f"<!doctype html>\n{tag('html', head, body, lang='en')}\n")
