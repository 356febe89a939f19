"""Command lines of ``simclr-dist``, run in this process."""

import os

import pytest

from simclr_dist.cli.main import main

NO_UTF8 = os.fsdecode(b"caf\xe9")
"""A name of a file or folder as Python has it that some libraries cannot open."""

TAKES = {"sbatch": '[ "$1" = --test-only ] && echo "to start at 12:30" >&2 || echo 29', "scontrol": "exit 1"}
"""Stand-ins for SLURM's commands: sbatch takes everything, as number 29; nobody knows of that job any more."""


def run_command(capture: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """``simclr-dist ARGUMENTS``: (status, standard output, standard error). What was printed before is forgotten."""
    capture.readouterr()
    with pytest.raises(SystemExit) as exited:
        main([str(argument) for argument in arguments])
    return exited.value.code, *capture.readouterr()


def complaint(told: str) -> str:
    """The one line of a command's standard error that says what is wrong.

    Before it may stand what was waited for, and how many images were found; nothing else.
    """
    *before, last = told.splitlines()
    assert last.startswith("simclr-dist")
    assert [line for line in before if not line.endswith(" ...") and " images" not in line] == []
    return last


def batch_script(capture: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The lines of the batch script that ``submit my.yaml`` would hand in; srun and what it starts are one."""
    status, out, _ = run_command(capture, "submit", "my.yaml", "--dry-run", *words)
    assert status == 0
    return out.replace("\\\n    ", "").splitlines()
