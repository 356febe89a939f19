"""``simclr-dist verify``: the promises of the recipe, checked on these machines."""

import click

from simclr_dist.cli.options import with_debug
from simclr_dist.config import load_config
from simclr_dist.config.loading import refuse_pipe
from simclr_dist.launch.relaunch import relaunch_checked, stop_with_launcher
from simclr_dist.progress_bar import ticking_on_terminal
from simclr_dist.terminal import say


@click.command()
@click.argument("config", metavar="[CONFIG]", default="digits_demo")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--processes", type=click.IntRange(min=1), help="Start this many processes on this machine.")
@with_debug
def verify(config: str, overrides: tuple[str, ...], processes: int | None) -> int:
    """Check on these machines that the trajectory depends on the recipe alone; status 1 when a promise fails.

    The recipe's method with a small encoder: its loss, gradients, chunks and the state that it leaves, against the same
    in one process, in float64; batch norm, LARS, sample order and views. Runs under torchrun as pretrain does.
    """
    loaded = load_config(config, overrides)
    if processes and processes > 1:
        refuse_pipe(config)
        return relaunch_checked(processes, loaded, ["verify", "--", config, *overrides])
    stop_with_launcher()
    from simclr_dist.distributed.devices import choose_device
    from simclr_dist.distributed.processes import Processes, process_group
    from simclr_dist.models.kernels import set_kernels
    from simclr_dist.training.preflight import check_machine
    from simclr_dist.verification.certificate import certify, table

    here = Processes.from_environment()
    check_machine(loaded, here.count)
    device = choose_device(loaded.machine.device, here.local_rank)
    set_kernels(deterministic=loaded.machine.deterministic, precision=loaded.machine.precision)
    with process_group(here, device), ticking_on_terminal("computing what is promised", active=here.is_first):
        checks = certify(loaded.recipe, here, device, loaded.machine.precision)
    if here.is_first:
        say(table(checks, f"{here.count} processes, {device.type}"))
    return 0 if all(check.holds for check in checks) else 1
