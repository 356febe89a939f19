"""``simclr-dist neighbours``: the images of a folder that are most like given ones, on one page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from simclr_dist.cli.encoding import (
    at_least_1,
    evaluating_processes,
    extraction,
    given_options,
    open_images,
    say_what_is_used,
    start_in_processes,
    with_extraction,
    with_images,
)
from simclr_dist.cli.options import NameType, PathType, with_debug
from simclr_dist.terminal import say


@click.command()
@click.argument("run", metavar="RUN_OR_WEIGHTS", type=PathType())
@click.argument("folder", metavar="FOLDER", type=NameType())
@click.argument("queries", metavar="IMAGE...", nargs=-1, required=True, type=NameType())
@click.option("--out", type=PathType(), required=True, help="The page, an HTML file.")
@click.option("--k", type=at_least_1, default=20, show_default=True, help="Neighbours of each image.")
@click.option("--features", "file", type=PathType(), help="Of FOLDER, a file that `features` wrote.")
@click.option("--pixels/--no-pixels", default=True, help="What raw pixels find, too.  [default: yes]")
@with_images
@with_extraction
@with_debug
@click.pass_context
def neighbours(command: click.Context, /, run: Path, folder: str, queries: tuple[str, ...], **options: Any) -> int:
    """Show the images below FOLDER that are most like each IMAGE, by cosine similarity of their features.

    IMAGE is a file, or the name of one of the images (its path below FOLDER; its number in a source without files).
    The page needs no network; an earlier page of this command is replaced, no other file. Features are computed once
    and kept in RUN/features, those of raw pixels too: the same command again searches at once, and resumes after a
    stop or a kill. Runs under torchrun and srun as pretrain does.
    """
    from simclr_dist.distributed.agreement import decided_by_first
    from simclr_dist.reporting.document import check_replaceable, write_page

    out = options["out"]
    if (options["processes"] or 1) > 1:
        check_replaceable(out, "neighbours")
        given = {"features" if name == "file" else name: value for name, value in given_options(command).items()}
        return start_in_processes("neighbours", options["processes"], [str(run), folder, *queries], given)
    with evaluating_processes(options["device"]) as here:
        from simclr_dist.data.sources.pixels import PixelRule
        from simclr_dist.distributed.agreement import all_or_none
        from simclr_dist.evaluation.features import feature_matrix
        from simclr_dist.evaluation.similar import SmallPixels, read_queries
        from simclr_dist.evaluation.source_features import say_what_is_broken, source_features
        from simclr_dist.reporting.searching import features_of_file, page_of_neighbours
        from simclr_dist.weights.read import load_encoder

        decided_by_first(lambda: check_replaceable(out, "neighbours"))
        with all_or_none():
            loaded = load_encoder(run)
            images, data = open_images(run, loaded, options["source"], folder, options["split"], options["image_size"])
            wanted = read_queries(list(queries), images, PixelRule.of(data))
            bank = features_of_file(options["file"], loaded, images, data) if options["file"] else None
        if here.is_first:
            say_what_is_used(loaded, images, options["source"])
        how = extraction(here, run, len(images), options)
        pixels = SmallPixels() if options["pixels"] else None
        if pixels:
            # Before the group ends with the features of the encoder; kept, so that they are there when they are asked.
            feature_matrix(pixels, images, data.image_size, replace(how, label="raw pixels"))
        if bank is None:
            found = source_features(loaded.encoder, images, data.image_size, how)
            if found is None:
                return 0
            bank, broken = found
            say_what_is_broken(images, broken)
        elif not here.is_first:
            return 0
    write_page(out, "neighbours", page_of_neighbours(loaded, images, data, bank, wanted, pixels, how, options["k"]))
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB; features are kept in {how.cache}")
    return 0
