"""Which workers of a loader have begun, and which stand still before they do.

A fork copies one thread, and every lock as it is. Up to Python 3.11.7 the copy then asks for the lock over thread
states before it has made it anew (gh-112275), and that may be held by a thread that exists no more: by one of gloo's,
it seems, which tells Python after each collective that it has dropped the tensors. Of a thousand forks next to
collectives some stood still so, for ever. What other libraries lock may do the same on any version.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

_LOOKS = 5


class Begun:
    """Of the workers of one loader, asked once a second by the process that waits for them."""

    def __init__(self, workers: int) -> None:
        self._noted = mmap.mmap(-1, max(workers, 1))
        self._asleep = [0] * workers  # at so many looks, one after the other

    def note(self, worker: int) -> None:
        """Called in that worker: it begins."""
        self._noted[worker] = 1

    def standing(self, workers: Sequence[BaseProcess]) -> list[BaseProcess]:
        """Those that have slept before they began, at this look and at those before: what they wait for never comes.

        One that waits for a core or for the disk, or is stopped, does not sleep. Where the kernel shows no states, as
        on macOS, none is found.
        """
        for number, worker in enumerate(workers):
            sleeps = not self._noted[number] and _state(worker.pid) == "S"
            self._asleep[number] = self._asleep[number] + 1 if sleeps else 0
        return [worker for worker, looks in zip(workers, self._asleep, strict=True) if looks >= _LOOKS]


def _state(pid: int | None) -> str:
    """A process's state as proc(5) has it; "" where there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    return ""
