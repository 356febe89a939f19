"""``simclr-dist features``: what an encoder makes of the images of a folder, in one file for other programs."""

from pathlib import Path
from typing import Any

import click

from simclr_dist.cli.encoding import (
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
@click.option("--out", type=PathType(), required=True, help="The file: .parquet or .npz.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@with_images
@click.option("--keep/--no-keep", default=True, help="Keep the blocks once the file is written.  [default: keep]")
@with_extraction
@with_debug
@click.pass_context
def features(command: click.Context, /, run: Path, folder: str, out: Path, **options: Any) -> int:
    """Write names and features of all images below FOLDER, which needs no classes, into one file.

    RUN_OR_WEIGHTS is a run's folder, a checkpoint, an export or an imported file. The features are those that
    `evaluate` uses, of centre crops. Runs under torchrun and srun as pretrain does; the file is the same to the bit on
    any number of processes. Start the same command again to resume after a stop or a kill: what is done is kept, block
    by block. Broken images are left out and named in OUT.broken.txt.
    """
    from simclr_dist.distributed.agreement import decided_by_first
    from simclr_dist.evaluation.feature_files import check_out, write_features

    if (options["processes"] or 1) > 1:
        check_out(out, overwrite=options["overwrite"])
        return start_in_processes("features", options["processes"], [str(run), folder], given_options(command))
    with evaluating_processes(options["device"]) as here:
        from simclr_dist.distributed.agreement import all_or_none
        from simclr_dist.evaluation.features import remove_blocks
        from simclr_dist.evaluation.source_features import (
            broken_lines,
            describe_features,
            say_what_is_broken,
            source_features,
        )
        from simclr_dist.storage.atomic import write_atomically
        from simclr_dist.weights.read import load_encoder

        decided_by_first(lambda: check_out(out, overwrite=options["overwrite"]))
        with all_or_none():
            loaded = load_encoder(run)
            images, data = open_images(run, loaded, options["source"], folder, options["split"], options["image_size"])
        if here.is_first:
            say_what_is_used(loaded, images, options["source"])
        how = extraction(here, run, len(images), options)
        found = source_features(loaded.encoder, images, data.image_size, how)
    if found is None:
        return 0
    kept, broken = found
    check_out(out, overwrite=options["overwrite"])  # somebody may have written it meanwhile; the features are kept
    listed = out.with_name(f"{out.name}.broken.txt")
    listed.unlink(missing_ok=True)
    if broken:
        write_atomically(listed, broken_lines(images, broken).encode())
        say_what_is_broken(images, broken, str(listed))
    write_features(out, images, kept, describe_features(loaded, run, images, data, how, kept), talks=how.talks)
    if not options["keep"]:
        remove_blocks(loaded.encoder, images, data.image_size, how)
    count, size = len(kept.samples), out.stat().st_size
    say(f"{out}: {count} image{'s' * (count != 1)}, {kept.matrix.shape[1]} features each, {size / 1e6:.1f} MB")
    return 0
