"""How far long work is: a bar on a terminal, a line now and then in a log."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from simclr_dist.terminal import errors_on_terminal, printable, say

_SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def said_when_slow(
    what: str, after_seconds: float = 1.5, write: Callable[[str], object] | None = None, *, active: bool = True
) -> Iterator[None]:
    """Say what takes so long, once it has taken ``after_seconds``: by ``write``, else on a terminal, if any.

    When not ``active`` nothing is said.
    """
    write = write or (partial(say, err=True) if errors_on_terminal() else None)
    timer = threading.Timer(after_seconds, lambda: write and write(f"{what} ..."))
    timer.daemon = True
    if write and active:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def showing_progress(
    total: int, unit: str = "images", label: str = "", *, active: bool = True
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of ``unit`` just done; when not ``active`` nothing is shown."""
    if not active:
        yield lambda done: None
        return
    if errors_on_terminal():
        from tqdm import tqdm

        with tqdm(total=total, unit=f" {unit}", desc=label or None) as bar:
            yield bar.update
        return
    done, started = 0, time.monotonic()
    last_line = started

    def update(count: int) -> None:
        nonlocal done, last_line
        done += count
        now = time.monotonic()
        if now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line, rate = now, done / (now - started)
            left = (total - done) / rate / 60
            start = f"{label}: " if label else ""
            shown = f"{rate:.{0 if rate >= 10 else 1}f}"
            say(f"{start}{done} of {total} {unit}, {shown} {unit}/s, {left:.1f} minutes left", err=True)

    yield update


@contextmanager
def ticking(label: str) -> Iterator[None]:
    """Say at once what is done now, and every second that it still is: the seconds on a terminal, else a dot."""
    ended, started, on_terminal = threading.Event(), time.monotonic(), errors_on_terminal()
    label = printable(label)

    def tick() -> None:
        while not ended.wait(1.0):
            say(f"\r{label} {time.monotonic() - started:.0f} s" if on_terminal else ".", err=True, nl=False, keep="\r")

    say(f"{label} ...", err=True, nl=False)
    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        say("", err=True)


@contextmanager
def ticking_on_terminal(label: str, *, active: bool = True) -> Iterator[None]:
    """As :func:`ticking`, on a terminal alone: of what makes no lines of a log. When not ``active`` nothing is said."""
    with ticking(label) if active and errors_on_terminal() else nullcontext():
        yield
