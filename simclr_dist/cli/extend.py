"""``simclr-dist extend``: a longer run out of one that is there."""

from pathlib import Path

import click

from simclr_dist.cli.options import PathType, with_debug
from simclr_dist.config.fields import MOST_EPOCHS
from simclr_dist.terminal import say, typed


@click.command()
@click.argument("run", metavar="RUN", type=PathType())
@click.option(
    "--epochs", type=click.IntRange(1, MOST_EPOCHS), required=True, help="Of the longer run, those done included."
)
@click.option("--run-dir", type=PathType(), help="Of the longer run.  [default: RUN_EPOCHS_epochs]")
@click.option(
    "--optimizer", type=click.Choice(["kept", "fresh"]), default="kept", show_default=True,
    help="Its state (momentum) at the first step.",
)  # fmt: skip
@with_debug
def extend(run: Path, epochs: int, run_dir: Path | None, optimizer: str) -> None:
    """Write the config of a run that goes on from RUN to more EPOCHS, and say how to start it.

    RUN is a folder or a checkpoint, and stays as it is. The new run has a folder of its own; its learning rate follows
    the schedule of EPOCHS epochs from the step where RUN stands: another trajectory than EPOCHS epochs from
    the start.
    """
    from simclr_dist.starting.extension import extended, write_extension

    extension = extended(run, epochs, run_dir, optimizer)
    path = write_extension(extension)
    say(f"{path}: {extension.text()}")
    say(f"start it (--processes N, submit and KEY=VALUE as for any config): {typed('pretrain', path)}")
