"""``simclr-dist plan``: does the run fit, what does it send, how long might it take."""

from typing import Any

import click

from simclr_dist.cli.options import NumberType, PathType, with_config, with_debug
from simclr_dist.config import load_config
from simclr_dist.planning.cards import CARDS
from simclr_dist.terminal import say


@click.command()
@with_config
@click.option("--gpus", type=click.IntRange(1, 1_000_000), required=True, help="GPUs of the run, one process each.")
@click.option("--card", type=click.Choice(list(CARDS)), help="The GPU: its memory, and rates published of it.")
@click.option("--gpu-memory", metavar="SIZE", help="Memory of a GPU, such as 80GB or 80GiB; else the card's.")
@click.option("--nodes", type=click.IntRange(min=1), help="Machines that the GPUs are in; else 8 GPUs a node.")
@click.option("--bandwidth", default="200Gb/s", show_default=True, help="Between two nodes, one way (b: bits).")
@click.option("--node-bandwidth", default="200GB/s", show_default=True, help="Between two GPUs of a node, one way.")
@click.option("--images", metavar="COUNT", help="Images of the data set, when it is not here.")
@click.option(
    "--rate",
    metavar="RATE",
    help="Measured on one of your GPUs: views/s of ResNet-50 at 224 px, such as 3100, or operations: 60TFLOP/s.",
)
@click.option(
    "--core-rate",
    type=NumberType(above=0),
    metavar="IMAGES",
    help="Images/s that one core loads, as data bench prints it.",
)
@click.option("--cores", type=click.IntRange(min=1), help="Cores of the loader for each GPU.")
@click.option("--suggest", is_flag=True, help="Print the machine half that fits, as YAML.")
@click.option("--out", type=PathType(dir_okay=False), help="Write a picture (PNG) too.")
@with_debug
def plan(config: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Predict, without a GPU, whether the run fits, what it sends and how long it might take.

    Several CONFIGs, before or between the overrides of all of them, have a row each.
    """
    from simclr_dist.planning.answer import Options, plan_recipes, plan_run

    others = [given for given in overrides if "=" not in given]
    own = [given for given in overrides if "=" in given]
    if others:
        configs = {name: load_config(name, own) for name in (config, *others)}
        say(plan_recipes(configs, Options(**options)))
    else:
        say(plan_run(load_config(config, own), Options(**options)))
