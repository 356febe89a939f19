"""``simclr-dist config``: the resolved config, or every key explained."""

import click

from simclr_dist.cli.options import with_debug
from simclr_dist.config import load_config, to_yaml
from simclr_dist.errors import UserError


@click.command("config")
@click.argument("config", metavar="[CONFIG]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--explain", is_flag=True, help="Instead, every key of the method CONFIG (simclr) with its text.")
@with_debug
def show_config(config: str | None, overrides: tuple[str, ...], explain: bool) -> None:
    """Print the resolved config; `config --explain moco` prints every key that a config of a method may have."""
    if explain:
        from simclr_dist.config.explain import explain as explained

        click.echo(explained(config or "simclr"))
    elif config:
        click.echo(to_yaml(load_config(config, overrides)), nl=False)
    else:
        raise UserError("config: give a CONFIG, or --explain")
