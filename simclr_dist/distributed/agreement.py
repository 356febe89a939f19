"""What all processes must do together or not at all: fail, decide, stop."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from simclr_dist.distributed.collectives import from_first, gather_objects, process_rank
from simclr_dist.errors import UserError, agreed_error

Result = TypeVar("Result")


@contextmanager
def all_or_none() -> Iterator[None]:
    """When the block raises a UserError on any process, all processes raise the first one.

    The block must hold no collective: a process that failed would be missing there.
    """
    failure: UserError | None = None
    try:
        yield
    except UserError as error:
        failure = error
    messages = [message for message in gather_objects(str(failure) if failure else None) if message]
    if messages:
        raise agreed_error(str(messages[0])) from failure


def decided_by_first(decide: Callable[[], Result]) -> Result:
    """Rank 0's answer (a small picklable object) on every process; a UserError there is raised everywhere."""
    value: Any = None
    message: str | None = None
    if process_rank() == 0:
        try:
            value = decide()
        except UserError as error:
            message = str(error)
    value, message = from_first((value, message))
    if message is not None:
        raise agreed_error(message)
    decided: Result = value
    return decided


class StopSignals:
    """While entered, SIGINT and SIGTERM only set a flag; the trainer agrees on it at a step boundary.

    A second Ctrl-C, more than a second after the first, interrupts at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """Number of the first signal that came."""
        self._at = 0.0

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() > self._at + 1:
            raise KeyboardInterrupt
