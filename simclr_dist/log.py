"""The log of the project: lines on the terminal and, in a run, in its folder."""

import logging
import sys
from pathlib import Path

log = logging.getLogger("simclr_dist")


def log_to_terminal() -> None:
    """Send the project's log lines to the terminal alone, until there is a run folder."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    log.addHandler(logging.StreamHandler())


def log_to(run_dir: Path) -> None:
    """Send the project's log lines to the terminal and, with the time, to run_dir/log.txt."""
    log_to_terminal()
    file = _LogFile(run_dir / "log.txt", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s  %(message)s"))
    log.addHandler(file)


class _LogFile(logging.FileHandler):
    """Lines that a full disk does not take are on the terminal, and no tracebacks with them."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
