"""How far the main thread of this process is: its step, and the collective that it began last.

Noted at every collective, at the price of one small tuple, and read by the thread that sends it to the other processes
(monitor.py). Nothing is counted while torch.compile traces: a count that changes would compile anew each time.
"""

from typing import NamedTuple

import torch


class Progress(NamedTuple):
    """How far the main thread is, the same on all processes that are equally far."""

    step: int | None = None
    """The step it is in; None: it takes no steps, or has not begun."""
    begun: int = 0
    """Number of collectives."""
    collective: str = "the start"
    """Label of the last of them."""

    @property
    def last(self) -> str:
        """In words, of a process that is lost."""
        return f"{self._step}its last collective '{self.collective}'"

    @property
    def waiting(self) -> str:
        """In words, of a process that waits for it."""
        return f"{self._step}in '{self.collective}'"

    @property
    def _step(self) -> str:
        return "" if self.step is None else f"in step {self.step}, "


_progress: tuple[int | None, int, str] = Progress()  # mostly a plain one, which is made in a fifth of the time


def current() -> Progress:
    """How far the main thread is."""
    return Progress(*_progress)


def begin() -> None:
    """A process group begins: nothing was done in it yet."""
    global _progress
    _progress = Progress()


def begin_step(step: int) -> None:
    """The step with that number, counted from 1, begins."""
    global _progress
    _progress = (step, *_progress[1:])


def begin_collective(label: str) -> None:
    """The collective named ``label`` begins now: noted and counted."""
    global _progress
    if not torch.compiler.is_compiling():
        step, begun, _ = _progress
        _progress = (step, begun + 1, label)
