"""``simclr-dist methods``: which methods there are, what each needs, and where its recipe is."""

import click

from simclr_dist.cli.options import with_debug
from simclr_dist.config.registry import METHODS
from simclr_dist.progress_bar import ticking
from simclr_dist.terminal import say


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--quick", is_flag=True, help="Without the memory, which takes some minutes to trace.")
@with_debug
def methods(name: str | None, quick: bool) -> None:
    """Print a table of the methods, then their memory beside SimCLR's; of NAME: equation, recipes, what to type."""
    from simclr_dist.planning.methods import described, memory_table, table, traced

    say(described(name) if name else table())
    if name or quick:
        return
    with ticking("tracing a step of each method for its memory; Ctrl-C when the table is enough"):
        traces = {each: traced(each) for each in METHODS}
    say(f"\n{memory_table(traces)}")
