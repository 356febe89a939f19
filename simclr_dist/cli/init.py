"""``simclr-dist init``: a config for a folder of pictures, from what they and this machine are."""

from pathlib import Path

import click

from simclr_dist.cli.options import NumberType, PathType, with_debug
from simclr_dist.errors import UserError
from simclr_dist.terminal import say


@click.command()
@click.argument("folder", metavar="FOLDER", type=PathType())
@click.option(
    "--hours", type=NumberType(above=0), default=1.0, show_default=True,
    help="How long pretraining may take on this machine.",
)  # fmt: skip
@click.option(
    "--out", type=PathType(dir_okay=False), default="my.yaml", show_default=True,
    help="The config; never one that is there. Its views beside it, as PNG.",
)  # fmt: skip
@with_debug
def init(folder: Path, hours: float, out: Path) -> None:
    """Look at the pictures of FOLDER and at this machine, and write a config that fits both.

    Reads the headers of a sample of the pictures, times a few steps, and gives a reason beside every key.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; give the one that holds the pictures")
    if out.suffix == ".png":
        raise UserError(f"--out: {out} is the name of a picture; give one that ends in .yaml")
    for path in (out, out.with_suffix(".png")):
        if path.exists() or path.is_symlink():
            raise UserError(f"{path}: is there already; give another name with --out, or remove it")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out: {out.parent} is not a folder; make it, or give another")
    from simclr_dist.starting.first_recipe import write_first_recipe

    write_first_recipe(folder, out, hours, say)
