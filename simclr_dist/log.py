"""The log of the project: lines on the terminal and, in a run, in its folder."""

import logging
import sys
from pathlib import Path

from simclr_dist.terminal import printable

log = logging.getLogger("simclr_dist")


def log_to_terminal() -> None:
    """Send the project's log lines to the terminal alone, until there is a run folder."""
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers.clear()
    terminal = logging.StreamHandler()
    terminal.setFormatter(_Printable())
    log.addHandler(terminal)


def log_to(run_dir: Path) -> None:
    """Send the project's log lines to the terminal and, with the time, to run_dir/log.txt."""
    log_to_terminal()
    file = _LogFile(run_dir / "log.txt", encoding="utf-8")
    file.setFormatter(_Printable("%(asctime)s  %(message)s"))
    log.addHandler(file)


class _Printable(logging.Formatter):
    """A line of the log may hold a name of a file, or what another host has said."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


class _LogFile(logging.FileHandler):
    """Lines that a full disk does not take are on the terminal, and no tracebacks with them."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
