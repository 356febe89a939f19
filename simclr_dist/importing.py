"""While a command imports what it needs: what is said of it, and what a Ctrl-C does."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from simclr_dist.terminal import errors_on_terminal, say

_LOOK_SECONDS = 0.1
_BETWEEN_IMPORTS = 0.5


@contextmanager
def said_while_importing(what: str, after_seconds: float = 1.5, *, active: bool = True) -> Iterator[None]:
    """On a terminal, say that ``what`` is being loaded, once this thread has imported for ``after_seconds``, wherever.

    One import after another is one wait. When not ``active`` nothing is said.
    """
    ended, importer = threading.Event(), threading.get_ident()

    def watch() -> None:
        began = last = 0.0
        while not ended.wait(_LOOK_SECONDS):
            now = time.monotonic()
            if _is_in_import(sys._current_frames().get(importer)):
                began = began if now <= last + _BETWEEN_IMPORTS else now
                last = now
                if now >= began + after_seconds:
                    say(f"loading {what} ...", err=True)
                    return

    if active and errors_on_terminal():
        threading.Thread(target=watch, name="says what is imported", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def ctrl_c_ends_imports() -> Iterator[None]:
    """A Ctrl-C within an import ends the process at once; elsewhere it is raised, as ever.

    Raised within one it may come out as another error, or abort the process with a page of C++: libraries catch what
    they did not expect there. Where somebody else answers the signal already, nothing changes.
    """

    def answer(number: int, frame: FrameType | None) -> None:
        if _is_in_import(frame):
            os._exit(128 + number)
        signal.default_int_handler(number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    answers = is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if answers:
        signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        if answers and signal.getsignal(signal.SIGINT) is answer:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_in_import(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None
