"""Processes forked for work: what becomes of signals."""

import os
import signal
import time

import pytest

from simclr_dist.data.sources.worker_pool import worker_pool


class ByeError(Exception):
    pass


def leave(*_: object) -> None:
    raise ByeError


def test_a_stop_signal_during_the_forks_is_answered_after_them(monkeypatch):
    """At a fork Python calls functions of other modules, and drops what is raised in them."""
    fork = os.fork

    def with_a_signal() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        except ByeError:
            pass
        return fork()

    monkeypatch.setattr(os, "fork", with_a_signal)
    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(ByeError), worker_pool(1):
            pytest.fail("the signal was lost")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_workers_heed_sigterm_and_no_ctrl_c():
    with worker_pool(1) as pool:
        ignored, held = pool.submit(handled).result()
    assert (ignored, held) == ((signal.SIG_IGN, signal.SIG_DFL), set())


def handled() -> tuple[tuple[object, object], set[signal.Signals]]:
    stops = {signal.SIGINT, signal.SIGTERM}
    return (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)), stops & signal.pthread_sigmask(
        signal.SIG_BLOCK, set()
    )
