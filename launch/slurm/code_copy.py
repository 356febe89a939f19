"""A copy of the code in the run folder: a requeued job runs what was submitted, whatever the checkout became."""

import shutil
from pathlib import Path

import simclr_dist
from simclr_dist.code_version import write_code_version
from simclr_dist.data.rendering.kernels import DIGEST
from simclr_dist.errors import UserError


def copy_code(folder: Path) -> None:
    """Copy the package to ``folder``/simclr_dist as a wheel would install it, compiled kernels included.

    Raises:
        UserError: the folder cannot be written.
    """
    package = Path(simclr_dist.__file__).parent
    try:
        # Links are followed: in a checkout two parts of the package stand beside it.
        shutil.copytree(package, folder / "simclr_dist", ignore=_left_out, dirs_exist_ok=True)
        write_code_version(folder / "simclr_dist")
    except OSError as error:  # shutil's own holds a list of (source, target, message)
        first = error.args[0][0][-1].partition(": '")[0] if isinstance(error, shutil.Error) else error.strerror
        raise UserError(f"machine.run_dir: the code cannot be copied to {folder}: {first}") from error


def _left_out(_: str, names: list[str]) -> list[str]:
    # numba's compiled kernels go along, those of the present code: a submission need not begin with compiling.
    kept = (".py", ".yaml", ".css", ".js", ".typed")
    return [name for name in names if "." in name and not name.endswith(kept) and f"{DIGEST}-" not in name]
