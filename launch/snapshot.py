"""A copy of the code in the run folder: a requeued job runs what was submitted, whatever the checkout became."""

import shutil
import subprocess
from pathlib import Path

from simclr_dist.configs import shipped

import simclr_dist
from simclr_dist.errors import UserError


def copy_code(folder: Path) -> None:
    """Copy the package to ``folder``/simclr_dist as a wheel would install it, compiled kernels included.

    Raises:
        UserError: the folder cannot be written.
    """
    package = Path(simclr_dist.__file__).parent
    # In a checkout two of its parts stand beside the package.
    parts = {package: "", Path(__file__).parent: "launch", shipped()[0].parent: "configs"}
    try:
        for source, name in parts.items():
            shutil.copytree(source, folder / "simclr_dist" / name, ignore=_left_out, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise UserError(f"{folder}: the code cannot be copied there: {error}") from error


def code_version() -> str:
    """The version, and the commit when the package stands in a git checkout ("+" when files differ from it)."""
    package = Path(simclr_dist.__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", "__init__.py"):
            return simclr_dist.__version__
        changed = "+" if git("status", "--porcelain", "--", str(package), str(package.parent / "launch")) else ""
        return f"{simclr_dist.__version__} ({git('rev-parse', '--short=12', 'HEAD')}{changed})"
    except (OSError, subprocess.CalledProcessError):
        return simclr_dist.__version__


def _left_out(_: str, names: list[str]) -> list[str]:
    # numba's compiled kernels (.nbi, .nbc) go along: without them every submission would begin with compiling.
    return [name for name in names if name.endswith((".pyc", ".tmp"))]
