"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable


def wait_until(
    holds: Callable[[], bool], seconds: float, otherwise: str | Callable[[], str], every: float = 0.25
) -> None:
    """Until it holds; AssertionError with ``otherwise`` when it does not in time.

    ``every``: seconds between two looks. One that asks SLURM starts a process, which the jobs would miss the time of.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, otherwise if isinstance(otherwise, str) else otherwise()
        time.sleep(every)
