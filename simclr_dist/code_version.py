"""Which code this is: the version, and the commit where that is known."""

import subprocess
from functools import cache
from pathlib import Path

import simclr_dist

_WRITTEN = "code_version.txt"


@cache
def code_version() -> str:
    """The version, and the commit when the package stands in a git checkout ("+" when files differ from it).

    Of a copy that a submission made it is what the copied code was.
    """
    package = Path(simclr_dist.__file__).parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if (package / _WRITTEN).exists():
            return (package / _WRITTEN).read_text(encoding="utf-8").strip()
        if not git("ls-files", "__init__.py"):
            return simclr_dist.__version__
        changed = "+" if git("status", "--porcelain", "--", str(package), str(package.parent / "launch")) else ""
        return f"{simclr_dist.__version__} ({git('rev-parse', '--short=12', 'HEAD')}{changed})"
    except (OSError, UnicodeDecodeError, subprocess.CalledProcessError):
        return simclr_dist.__version__


def write_code_version(copied_package: Path) -> None:
    """Leave in a copy of the package what :func:`code_version` says of this one.

    Raises:
        OSError: as the file system says.
    """
    (copied_package / _WRITTEN).write_text(f"{code_version()}\n", encoding="utf-8")
