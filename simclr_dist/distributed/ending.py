"""The end of a process whose group cannot be ended together with the others.

NCCL's destroy waits for all processes, and after an error of one they wait for it: nothing would be said until a
collective's timeout is over. So the error is raised and printed first, the group is aborted beside it, and the process
ends without asking for the rest.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

_ABORT_SECONDS = 5.0
_aborting: threading.Thread | None = None


def abandon_group(abort: Callable[[], object]) -> None:
    """Let ``abort`` run in a thread, which :func:`end_process` gives a few seconds."""
    global _aborting

    def quietly() -> None:
        with suppress(Exception):
            abort()

    _aborting = threading.Thread(target=quietly, name="aborts the group", daemon=True)
    _aborting.start()


def end_process(status: int) -> NoReturn:
    """Exit with ``status``; at once, without the interpreter's own end, when a group was abandoned."""
    if _aborting is None:
        sys.exit(status)
    _aborting.join(_ABORT_SECONDS)
    end_now(status)


def end_now(status: int) -> NoReturn:
    """Exit from any thread, whatever the others wait for, once what was written is out."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
    os._exit(status)
