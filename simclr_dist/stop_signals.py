"""The signals that ask a run to stop: they set a flag, and nothing else, until a step is done."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NOTICES = (signal.SIGUSR1, signal.SIGUSR2)
"""What a scheduler sends when the job's time is nearly up, as ``sbatch --signal=USR2@120`` asks for."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *NOTICES)


def hold_notices() -> None:
    """Notices that come from now on wait for :class:`StopSignals`; otherwise they would end a process that starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, NOTICES)


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Stop signals wait; a process that starts meanwhile begins with them waiting."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals() -> None:
    """For processes that end with the one that started them."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


class StopSignals:
    """While entered, the stop signals only set a flag; the trainer agrees on it at a step boundary.

    A second Ctrl-C, more than a second after the first, interrupts at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the first signal that came."""
        self._at = 0.0

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # A notice that comes after the end must not make a failure of it.
            signal.signal(number, signal.SIG_IGN if number in NOTICES else handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() > self._at + 1:
            raise KeyboardInterrupt
