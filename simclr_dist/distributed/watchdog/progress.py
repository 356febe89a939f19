"""Where the main thread of this process is: its step, and the collective that it began last.

Noted at every collective, at the price of one small tuple, and read by the thread that tells the other processes
(lost_processes.py). Nothing is counted while torch.compile traces: a count that changes would compile anew each time.
"""

from typing import NamedTuple

import torch


class Place(NamedTuple):
    """A moment of the main thread, the same on all processes that are equally far."""

    step: int | None = None
    """The step it is in; None: it takes no steps, or has not begun."""
    begun: int = 0
    """Number of collectives."""
    collective: str = "the start"
    """What the last of them is for."""

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


_place: tuple[int | None, int, str] = Place()  # mostly a plain one, which is made in a fifth of the time


def here() -> Place:
    """Where the main thread is."""
    return Place(*_place)


def begin() -> None:
    """A process group begins: nothing was done in it yet."""
    global _place
    _place = Place()


def begin_step(step: int) -> None:
    """The step with that number, counted from 1, begins."""
    global _place
    _place = (step, *_place[1:])


def at(collective: str) -> None:
    """The collective that these words describe begins now."""
    global _place
    if not torch.compiler.is_compiling():
        step, begun, _ = _place
        _place = (step, begun + 1, collective)
