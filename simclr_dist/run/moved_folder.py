"""A run folder that was moved or copied: the config in it still says where it was."""

from collections.abc import Sequence
from pathlib import Path

from simclr_dist.errors import UserError


def refuse_moved(config: str, overrides: Sequence[str], run_dir: str) -> None:
    """Refuse to begin anew elsewhere what the config of a run with checkpoints, in their folder, would resume.

    Args:
        config: as a user gives it, a file or the name of a recipe.
        overrides: as a user types them.
        run_dir: machine.run_dir as it was loaded.

    Raises:
        UserError: the checkpoints beside the config are not those of machine.run_dir, which nobody gave.
    """
    here, there = Path(config).parent, Path(run_dir)
    is_given = any(override.partition("=")[0] == "machine.run_dir" for override in overrides)
    if is_given or Path(config).name != "config.yaml" or not any(here.glob("checkpoints/step_*.pt")):
        return
    if here.resolve() != there.resolve() and not (there.exists() and here.samefile(there)):
        raise UserError(
            f"{config}: machine.run_dir is {run_dir}, and the config stands beside the checkpoints of another folder; "
            f"set machine.run_dir={here} to resume those, or machine.run_dir={run_dir} to train there"
        )
