"""``simclr-dist report``."""

import time
from collections.abc import Sequence
from pathlib import Path

import click

from simclr_dist.cli.options import PathType, with_debug
from simclr_dist.cli.track import say_how_to_track
from simclr_dist.errors import UserError
from simclr_dist.progress_bar import said_when_slow
from simclr_dist.storage.paths import refuse_not_utf8
from simclr_dist.terminal import say


@click.command()
@click.argument("run_dirs", metavar="RUN...", nargs=-1, required=True, type=PathType())
@click.option(
    "--out",
    type=PathType(),
    help="The page.  [default: RUN/report.html; with several runs comparison.html in the first]",
)
@click.option(
    "--images",
    type=click.IntRange(1, 2000),
    default=2000,
    show_default=True,
    help="Held-out images on the page, at most.",
)
@click.option("--tensorboard", is_flag=True, help="Features and pictures into RUN/tensorboard too.")
@with_debug
def report(run_dirs: tuple[Path, ...], out: Path | None, images: int, tensorboard: bool) -> None:
    """Show what runs did and learned on one HTML page that needs no network; several runs are compared.

    An earlier report of the same name is replaced, never another file.
    """
    started = time.monotonic()
    from simclr_dist.reporting.document import check_replaceable, write_page
    from simclr_dist.reporting.facts import read_facts
    from simclr_dist.reporting.page import page

    for path in run_dirs if tensorboard else ():
        refuse_not_utf8(path, "--tensorboard")
    runs = []
    for path, name in zip(run_dirs, _names(run_dirs), strict=True):
        with said_when_slow(f"{path}: reading"):
            runs.append(read_facts(path, name))
    out = out or run_dirs[0] / ("report.html" if len(runs) == 1 else "comparison.html")
    check_replaceable(out, "report")
    with said_when_slow(f"{out}: making the page"):
        write_page(out, "report", page(runs, images))
    if tensorboard:
        from simclr_dist.reporting.tensorboard import write_tensorboard

        for run in runs:
            with said_when_slow(f"{run.path / 'tensorboard'}: writing features and pictures"):
                written = write_tensorboard(run, images)
            say(written)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB, made in {time.monotonic() - started:.0f} s")
    for path in run_dirs:
        say_how_to_track(path)


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """The folders' names; with their parents' where two are the same."""
    resolved = [path.resolve() for path in run_dirs]
    if len(set(resolved)) < len(resolved):
        raise UserError("RUN: the same run is given twice; give each once")
    names = [path.name for path in resolved]
    return [
        name if names.count(name) == 1 else f"{path.parent.name}/{name}"
        for path, name in zip(resolved, names, strict=True)
    ]
