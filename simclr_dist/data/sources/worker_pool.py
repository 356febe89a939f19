"""Processes that work for this one, forked from it, which end with it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from simclr_dist.errors import UserError
from simclr_dist.stop_signals import STOP_SIGNALS, stop_signals_later


@contextmanager
def worker_pool(
    workers: int, begin: Callable[..., object] = lambda: None, given: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """``workers`` processes that have called ``begin(*given)``, made by the main thread. Copies of this one, as loader
    workers are: what stands in memory is not sent, and nothing is imported again.

    Raises:
        UserError: one was killed.
    """
    pool = ProcessPoolExecutor(workers, get_context("fork"), _begin, (begin, given))
    try:
        # The first call forks them all. At a fork Python calls functions of other modules, and drops what a signal's
        # handler raises in them: the signal would be lost.
        with stop_signals_later():
            pool.submit(int)
        yield pool
    except BrokenProcessPool as error:
        raise UserError("a worker was killed, perhaps for want of memory; try fewer with --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., object], given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells its workers to stop
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    begin(*given)


def _end_with(parent: int) -> None:
    """End this process when that one, which has started it, is gone; does not return."""
    # A killed parent leaves its workers waiting for work forever: each holds the others' ends of the pipes.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
