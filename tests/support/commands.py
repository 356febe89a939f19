"""Command lines of ``simclr-dist``, run in this process."""

import pytest

from simclr_dist.cli.main import main


def run_command(capture: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """``simclr-dist ARGUMENTS``: (status, standard output, standard error). What was printed before is forgotten."""
    capture.readouterr()
    with pytest.raises(SystemExit) as exited:
        main([str(argument) for argument in arguments])
    return exited.value.code, *capture.readouterr()
