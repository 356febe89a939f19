"""The signals that ask a run to stop: they set a flag, and nothing else, until a step is done."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from simclr_dist.terminal import terminal_is_lost, to_nowhere

NOTICES = (signal.SIGUSR1, signal.SIGUSR2)
"""What a scheduler sends when the job's time is nearly up, as ``sbatch --signal=USR2@120`` asks for."""
STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, *NOTICES)
"""SIGHUP: the terminal is gone, or the ssh session. Under nohup it stays ignored."""
_SECONDS_TO_BEGIN = 10.0


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


def handle_stop_signals(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Have ``handler`` called at every stop signal that this process heeds; what was done at them before."""
    heeded = (n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN)
    return {number: signal.signal(number, handler) for number in heeded}


@contextmanager
def stop_signals_later() -> Iterator[None]:
    """What stands within is done to its end, and so is a process that it starts; then a stop signal is answered.

    Waiting alone would not do: where there are more threads, a signal goes to one that does not let it wait.
    """
    came: list[int] = []
    before = handle_stop_signals(lambda number, _: came.append(number))
    try:
        with stop_signals_held():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


class StopSignals:
    """While entered, the stop signals only set a flag; the trainer agrees on it at a step boundary.

    A second Ctrl-C, more than a second after the first, interrupts at once. A thread says at once that a signal came:
    the main thread, in which Python calls handlers, may be in a library's code for long.
    """

    def __init__(self, say: Callable[[str], object] = lambda name: None, *, ends_before_begin: bool = False) -> None:
        """``say`` is called with the name of the first signal, in a thread of its own.

        With ``ends_before_begin`` a signal other than a notice ends the process when :attr:`has_begun` is not set ten
        seconds after it: there is nothing to save, and what is waited for may never come.
        """
        self.received: int | None = None
        """Number of the first signal that came."""
        self.has_begun = False
        self.has_arrived = False
        """Whether a signal other than a notice has come: known at once, in a thread, wherever the main thread is."""
        self._say, self._ends_before_begin = say, ends_before_begin
        self._at = 0.0
        self._over = threading.Event()

    def __enter__(self) -> "StopSignals":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._thread = threading.Thread(target=self._listen, name="stop signals", daemon=True)
        self._thread.start()
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = handle_stop_signals(self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # A notice that comes after the end must not make a failure of it.
            signal.signal(number, signal.SIG_IGN if number in NOTICES else handler)
        signal.set_wakeup_fd(self._wakeup)
        self._over.set()
        os.write(self._writer, bytes(1))
        self._thread.join()
        os.close(self._writer)
        os.close(self._reader)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() > self._at + 1:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        """What the C code of signals writes: the number of each that has a handler, as a byte."""
        first = 0
        over = False
        while not over:
            numbers = os.read(self._reader, 64)
            # Asked after reading: what came before the end is answered, however late this thread runs.
            over = self._over.is_set()
            for number in numbers:
                if number == signal.SIGHUP:
                    _leave_lost_terminal()
                self.has_arrived |= number in STOP_SIGNALS and number not in NOTICES
                if number in STOP_SIGNALS and not first:
                    first = number
                    self._say(signal.Signals(number).name)
            if first and first not in NOTICES and self._ends_before_begin and not self.has_begun:
                self._end_unless_begun(first)

    def _end_unless_begun(self, number: int) -> None:
        deadline = time.monotonic() + _SECONDS_TO_BEGIN
        while not self.has_begun:
            if self._over.wait(0.1):
                return
            if time.monotonic() > deadline:
                os._exit(128 + number)


def _leave_lost_terminal() -> None:
    """Send to nowhere what would go to a terminal that is gone: writing there is an error."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if terminal_is_lost(descriptor):
                to_nowhere(descriptor)
