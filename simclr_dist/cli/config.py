"""``simclr-dist config``: the resolved config, or every key explained."""

import click

from simclr_dist.cli.options import with_debug
from simclr_dist.config import load_config, to_yaml
from simclr_dist.errors import UserError
from simclr_dist.terminal import say


@click.command("config")
@click.argument("config", metavar="[CONFIG]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--explain", is_flag=True, help="Instead, every key of the method CONFIG (simclr) with its text.")
@with_debug
def show_config(config: str | None, overrides: tuple[str, ...], explain: bool) -> None:
    """Print the resolved config; `config --explain moco` prints every key that a config of a method may have."""
    if not (config or explain):
        raise UserError("config: give a CONFIG, or --explain")
    if explain:
        from simclr_dist.config.explain import explain as explained

        text = explained(config or "simclr") + "\n"
    else:
        text = to_yaml(load_config(config or "", overrides))
    say(text, nl=False)
