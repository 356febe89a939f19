"""What a user has named, put where a language reads it: the shell, sbatch's patterns, lists of folders."""

import shlex
from pathlib import Path

from simclr_dist.errors import UserError


def for_shell(word: str | Path) -> str:
    """One word of a shell's command that stays what it is, whatever is in it."""
    return shlex.quote(str(word))


def for_pattern(path: str | Path) -> str:
    """A path in an ``--output`` of sbatch and srun, which fill in %j, %t, %x, ...

    Raises:
        UserError: it holds a backslash, after which SLURM fills in nothing, not the job's number either.
    """
    if "\\" in str(path):
        raise UserError(
            f"machine.run_dir: '{path}': SLURM cannot keep a log below a name with a backslash; take another"
        )
    return str(path).replace("%", "%%")


def for_line(option: str, value: str) -> str:
    """A value of an ``#SBATCH`` line.

    Raises:
        UserError: it holds an end of line or another control character: what follows would be a command of the script.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise UserError(f"{option}: '{value}' holds an end of line or a control character; take another name")
    return value


def for_list(path: Path, reader: str, separators: str = ":,") -> str:
    """A folder in a list that ``reader`` separates at each of ``separators``, with no way to quote them.

    Raises:
        UserError: it holds one.
    """
    if any(separator in str(path) for separator in separators):
        names = " or ".join(_NAMES[separator] for separator in separators)
        raise UserError(f"{path}: {reader} takes {names} in it for the end of the name; take another folder")
    return str(path)


def for_python(code: Path) -> str:
    """A folder on PYTHONPATH; raises as :func:`for_list`."""
    return for_list(code, "PYTHONPATH", ":")


_NAMES = {":": "a colon", ",": "a comma"}
