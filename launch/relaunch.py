"""A command started again in several processes on this machine, or under a launcher."""

import sys
from collections.abc import Callable, Sequence

from simclr_dist.config import Config
from simclr_dist.distributed.launchers import launcher_here
from simclr_dist.errors import UserError

_MOST_A_CORE = 16
"""Each takes hundreds of MB: so many are a slip, and would take the machine down."""


def relaunch(
    count: int,
    arguments: Sequence[str],
    device: str,
    check: Callable[[], None] | None = None,
    *,
    goes_on: bool = False,
) -> int:
    """Run ``simclr-dist ARGUMENTS`` in ``count`` processes on this machine, and return its status.

    What they would all refuse is refused here, once: ``check``, and a ``device`` that is not there. ``goes_on``: the
    others go on when one is lost.

    Raises:
        UserError: a launcher has started several processes already, they are far more than cores, or what ``check``
            refuses.
    """
    from simclr_dist.distributed.cores import usable_cores
    from simclr_dist.distributed.devices import require_devices
    from simclr_dist.distributed.processes import Processes
    from simclr_dist.launch import local

    launcher = launcher_here()
    if launcher and Processes.from_environment().count > 1:
        raise UserError(f"--processes: {launcher.name} has started the processes already; leave it out")
    if count > _MOST_A_CORE * (cores := usable_cores()):
        raise UserError(
            f"--processes {count}: more than {_MOST_A_CORE} for each of the {cores} cores here; ask for fewer"
        )
    if check:
        check()
    require_devices(device, count)
    # In front: what stands behind may end with names after "--".
    debug = ["--debug"] if "--debug" in sys.argv else []
    return int(local.run_processes(count, [*debug, *arguments], goes_on=goes_on))


def relaunch_checked(count: int, config: Config, arguments: Sequence[str], *, goes_on: bool = False) -> int:
    """As :func:`relaunch`, for a command that computes a recipe: checked is that ``count`` processes can.

    Raises:
        UserError: as :func:`relaunch`.
    """
    from simclr_dist.training.preflight import check_machine

    return relaunch(
        count, arguments, config.machine.device, check=lambda: check_machine(config, count), goes_on=goes_on
    )


def stop_with_launcher() -> None:
    """This process ends when the one that started it does."""
    from simclr_dist.launch import local

    local.stop_with_launcher()
