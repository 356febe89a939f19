"""``simclr-dist data``: .beton files written, checked, described, sealed; shards indexed; the loader measured."""

import signal
import sys
from pathlib import Path
from typing import Any

import click

from simclr_dist.cli.options import NameType, NumberType, PathType, with_config, with_debug, with_overrides
from simclr_dist.config import load_config
from simclr_dist.config.fields import MOST_SECONDS, MOST_WORKERS
from simclr_dist.config.shards import LABELS, Shards
from simclr_dist.data.sources.beton.encoding import CHROMA, MODES, Encoding, default_max_side
from simclr_dist.progress_bar import showing_progress, ticking, ticking_on_terminal
from simclr_dist.terminal import say

_NAMES_SHOWN = 20
_beton = click.argument("file", metavar="FILE", type=PathType())


@click.group(no_args_is_help=True)
@with_debug
def data() -> None:
    """Data sets in one file, as FFCV's .beton, or in tar files, and the speed of the loader."""


@data.command()
@click.argument("config", metavar="CONFIG")
@click.argument("out", metavar="OUT", type=PathType())
@with_overrides
@click.option("--split", type=click.Choice(["pretrain", "train", "test"]), default="pretrain", show_default=True)
@click.option(
    "--max-side",
    type=click.IntRange(min=0),
    help="Shorter side of an image at most, pixels; 0: any.  [default: 8/7 of recipe.data.image_size, 256 for 224]",
)
@click.option("--quality", type=click.IntRange(1, 100), default=Encoding.quality, show_default=True, help="Of JPEGs.")
@click.option(
    "--mode", type=click.Choice(MODES), default=Encoding.mode, show_default=True, help="auto: raw up to 64x64 pixels."
)
@click.option(
    "--chroma", type=click.Choice(CHROMA), default=Encoding.chroma, show_default=True, help="444: colour whole, larger."
)
@click.option("--workers", type=click.IntRange(0, MOST_WORKERS), help="Processes that encode.  [default: one a core]")
@click.option(
    "--skip-broken",
    is_flag=True,
    help="Leave broken images out (up to machine.max_broken_image_share) instead of refusing the first.",
)
@with_debug
def write(
    config: str,
    out: Path,
    overrides: tuple[str, ...],
    split: str,
    workers: int | None,
    skip_broken: bool,
    max_side: int | None,
    **encoding: Any,
) -> None:
    """Write the images and labels of CONFIG's data set into the file OUT, or OUT/SPLIT.beton when OUT is a folder.

    Without a config: simclr-dist data write digits_demo OUT.beton recipe.data.source=folder recipe.data.path=PHOTOS
    recipe.data.image_size=224. JPEG files that are small enough are copied as they are.
    """
    loaded = load_config(config, overrides)
    recipe = loaded.recipe
    from simclr_dist.data.sources.base import pixel_rule_of, with_masks
    from simclr_dist.data.sources.beton.writer import write_beton
    from simclr_dist.data.sources.named import open_of_recipe
    from simclr_dist.data.sources.pixels import PixelRule
    from simclr_dist.data.sources.summary import say_what_was_found, summary
    from simclr_dist.distributed.cores import usable_cores

    signal.signal(signal.SIGTERM, _exit)
    source = open_of_recipe(recipe, loaded.machine.shards, split)
    say_what_was_found(summary(source, recipe.data.source))
    if with_masks(source):
        say("left out: the masks; a .beton has none", err=True)
    rule = pixel_rule_of(source)
    pixels = rule.as_dict() if isinstance(rule, PixelRule) else {}
    out = out / f"{split}.beton" if out.is_dir() else out
    side = default_max_side(recipe.data.image_size) if max_side is None else max_side
    with showing_progress(len(source)) as progress:
        written = write_beton(
            source,
            out,
            Encoding(max_side=side, **encoding),
            workers=usable_cores() if workers is None else workers,
            max_broken_share=loaded.machine.max_broken_image_share if skip_broken else None,
            note={"source": recipe.data.source, "split": split, **pixels},
            progress=progress,
        )
    for reason in written.left_out[:_NAMES_SHOWN]:
        say(f"left out, broken: {reason}", err=True)
    if len(written.left_out) > _NAMES_SHOWN:
        say(f"left out, broken: {len(written.left_out)} in all, named in {out}.json", err=True)
    say(f"{out}: {_summary(written.sidecar.facts, written.sidecar.file_bytes)}")


@data.command()
@_beton
@click.option("--full", is_flag=True, help="Read the whole file, whatever its size.")
@with_debug
def check(file: Path, full: bool) -> None:
    """Check that FILE is what was written; status 2 when it is not."""
    from simclr_dist.data.sources.beton.check import QUICK_BYTES, check_file

    table, sidecar = check_file(file, full=full)
    whole = full or table.file_bytes <= QUICK_BYTES
    say(
        f"{file}: intact, {_summary(sidecar.facts, sidecar.file_bytes)}"
        + ("" if whole else "; its size, table, first and last block were compared, all of it with --full")
    )


@data.command()
@_beton
@with_debug
def info(file: Path) -> None:
    """Print what is in FILE and how it was written."""
    from simclr_dist.data.sources.beton.sidecar import load_sidecar

    sidecar = load_sidecar(file)
    say(f"{file}: {_summary(sidecar.facts, sidecar.file_bytes)}")
    if sidecar.classes:
        say(f"{len(sidecar.classes)} classes: {', '.join(sidecar.classes[:_NAMES_SHOWN])}")
    for key, value in sidecar.facts["written"].items():
        say(f"{key}: {len(value) if isinstance(value, list) else value}")
    say(f"fingerprint: {sidecar.content_sha256()}")


@data.command()
@_beton
@with_debug
def seal(file: Path) -> None:
    """Trust FILE as it is, one of ffcv's own writer, say: check its structure and write its sidecar."""
    from simclr_dist.data.sources.beton.check import seal_file

    sidecar = seal_file(file)
    say(f"{file}: sealed, {_summary(sidecar.facts, sidecar.file_bytes)}")


@data.command()
@click.argument("shards", metavar="SHARDS...", nargs=-1, required=True, type=NameType())
@click.argument("out", metavar="OUT", type=PathType())
@click.option(
    "--labels",
    type=click.Choice(LABELS),
    default="auto",
    show_default=True,
    help="auto: KEY.cls, else KEY.json's label, cls or class; folder: the first folder of an image's name.",
)
@click.option(
    "--workers", type=click.IntRange(0, MOST_WORKERS), help="Shards that are read at once.  [default: one a core]"
)
@click.option(
    "--wait-seconds",
    type=click.IntRange(1, MOST_SECONDS),
    default=Shards.wait_seconds,
    show_default=True,
    help="How long a server that does not answer is waited for.",
)
@with_debug
def index(shards: tuple[str, ...], out: Path, labels: str, workers: int | None, wait_seconds: int) -> None:
    """Read tar files (SHARDS: files, folders, URLs, patterns as {000..146}) once, their index into the folder OUT.

    Images are the members KEY.jpg, KEY.png and so on; recipe.data.source=webdataset recipe.data.path=OUT reads them.
    A pass that was ended goes on, and a later one reads what has changed.
    """
    from simclr_dist.data.sources.shards.indexing import index_shards
    from simclr_dist.distributed.cores import usable_cores

    signal.signal(signal.SIGTERM, _exit)
    found = index_shards(
        shards,
        out,
        labels,
        workers=usable_cores() if workers is None else workers,
        wait_seconds=wait_seconds,
        say=lambda line: say(line, err=True),
    )
    left_out = sum(shard.left_out for shard in found.shards)
    labelled = f"of {len(found.classes):,} classes" if found.classes else "without labels"
    remark = f"; left out: {left_out:,} keys without an image" if left_out else ""
    say(f"{out}: {len(found):,} images {labelled} in {len(found.shards):,} shards{remark}; {found.fingerprint[:16]}")


@data.command()
@with_config
@click.option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="For the stages' times.")
@click.option("--seconds", type=NumberType(low=0), default=10.0, show_default=True, help="For the loader's rate.")
@with_debug
def bench(config: str, overrides: tuple[str, ...], images: int, seconds: float) -> None:
    """Measure how fast the loader alone makes views, and where the time goes: no training is done.

    With the recipe's images, views and batch, and the machine's renderer, views_on_device and loader_workers. With
    recipe.data.source=ffcv the same file is measured through source beton, and by ffcv's own pipeline, too.
    """
    loaded = load_config(config, overrides)
    from simclr_dist.data.loading.batches import build_batches
    from simclr_dist.data.loading.order import build_order
    from simclr_dist.data.loading.throughput import beside_ffcv, loader_rate, stage_table
    from simclr_dist.data.sources.beton.ffcv_source import FfcvSource
    from simclr_dist.data.sources.named import open_of_recipe
    from simclr_dist.data.sources.summary import say_what_was_found, summary
    from simclr_dist.data.views.groups import views_in_words
    from simclr_dist.distributed.cores import usable_cores, worker_count

    source = open_of_recipe(loaded.recipe, loaded.machine.shards)
    say_what_was_found(summary(source, loaded.recipe.data.source))
    batches = build_batches(loaded, source, build_order(loaded.recipe, source))
    workers = worker_count(loaded.machine.loader_workers, usable_cores())
    is_ffcv = isinstance(source, FfcvSource)
    with ticking("ffcv compiles, in each process") if is_ffcv else ticking_on_terminal("measuring the loader"):
        first, rate = loader_rate(batches, workers, seconds)
    with ticking_on_terminal("measuring each stage"):
        stages = stage_table(batches, images)
    say(
        f"{loaded.recipe.data.source}, views {views_in_words(loaded.recipe)}, {loaded.machine.renderer}"
        f"{', colours left to the device' if loaded.machine.views_on_device else ''}\n"
        f"{stages}\n"
        f"  the loader with {workers} {'thread' if is_ffcv else 'worker'}(s): {rate:,.0f} images/s; "
        f"its first batch after {first:.1f} s"
    )
    if is_ffcv:
        with ticking("the same file without it, then its own pipeline"):
            lines = beside_ffcv(batches, workers, seconds)
        say(lines)


def _summary(facts: dict[str, Any], file_bytes: int) -> str:
    images, jpegs = facts["images"], facts["jpegs"]
    (low_w, high_w), (low_h, high_h) = facts["widths"], facts["heights"]
    return (
        f"{images} {'labelled' if facts['labelled'] else 'unlabelled'} images ({jpegs} JPEG, {images - jpegs} raw), "
        f"{low_w}-{high_w} x {low_h}-{high_h} pixels, {file_bytes / 1e6:.1f} MB"
    )


def _exit(number: int, _: object) -> None:
    # What is half written is removed on the way out.
    sys.exit(128 + number)
