"""A hung or dead process ends the run, and the others say which it was, where, and what it did last.

A thread of each process writes to the group's store (heartbeats.py), every moment, that it lives and how far its main
thread is (progress.py). Whoever's collective fails reads all heartbeats twice, some seconds apart, publishes its
diagnosis (diagnosis.py) and raises it; whoever fails after that, because the first one left, repeats it.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch.distributed as dist

from simclr_dist.distributed.launchers import host_here
from simclr_dist.distributed.watchdog import progress
from simclr_dist.distributed.watchdog.diagnosis import diagnose, ended, is_lost, store_lost
from simclr_dist.distributed.watchdog.heartbeats import CUT_OFF, LEFT, TIMED_OUT, WORKS, Heartbeat, HeartbeatStore
from simclr_dist.errors import AgreedError, UserError, first_line
from simclr_dist.terminal import say

Answer = TypeVar("Answer")

_BEAT_SECONDS = 0.25
_BEATS_PER_SECOND = 1000  # of all processes together: what the store is asked to bear
_OBSERVED_SECONDS = 3.0
_PATIENCE_SECONDS = 5.0  # with a store that does not answer


def how_it_failed(error: BaseException) -> str | None:
    """Whether a collective has timed out or was cut off, by what the backends raise; None: it is another error."""
    text = str(error)
    if not isinstance(error, RuntimeError):
        return None
    if re.search(r"timed out|timeout", text, re.IGNORECASE):
        return TIMED_OUT
    if isinstance(error, dist.DistError) or re.search(r"[Cc]onnection (closed|reset)|[Bb]roken pipe", text):
        return CUT_OFF
    return None


class LostProcesses:
    """Sends this process's heartbeats to the others, and finds out which of them is lost."""

    def __init__(
        self, store: HeartbeatStore, rank: int, count: int, timeout_seconds: int, *, held_by_first: bool
    ) -> None:
        """``held_by_first``: process 0 holds the store, and not a launcher."""
        self.store, self.rank, self.count, self.timeout_seconds = store, rank, count, timeout_seconds
        self.held_by_first = held_by_first
        self.host = host_here()
        self.state = WORKS
        self.beat_seconds = max(_BEAT_SECONDS, count / _BEATS_PER_SECOND)
        self.observed_seconds = max(_OBSERVED_SECONDS, 3 * self.beat_seconds)
        self._failed_itself = False
        self._first: Heartbeat | None = None
        self._heard: str | None = None
        self._answered = time.monotonic()
        self._left = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="signs of life", daemon=True)
        self._beating.start()

    @contextmanager
    def named(self) -> Iterator[None]:
        """One line instead of what the backends raise; an error of this process's own is published to the others.

        Raises:
            UserError: another process is lost.
        """
        try:
            yield
        except BaseException as error:
            self._failed_itself = not isinstance(error, AgreedError)
            failure = how_it_failed(error)
            if failure is not None:
                self.state = failure
                raise UserError(self._line(self._found_out)) from error
            if self._failed_itself:
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                self._publish(ended(self.rank, self.host, kind + first_line(error)))
            raise

    def leave(self) -> None:
        """The group is over for this process."""
        if self._failed_itself and self.held_by_first and self.rank == 0:
            time.sleep(3 * self.beat_seconds)  # the store goes with this process: not before the others have read why
        self.state = LEFT
        self._left.set()
        self._beating.join(1.0)
        self.store.close()

    def end_when_waiting_in_vain(self) -> None:
        """From now on a thread ends the process once its main thread waits in vain for one that is lost.

        For NCCL, whose watchdog ends the process before Python could say a word. Never run on a GPU.
        """
        threading.Thread(target=self._guard, name="guard", daemon=True).start()

    def _beat(self) -> None:
        beat = 0
        while True:
            left = self._left.is_set()
            try:
                self.store.write(self.rank, Heartbeat(beat, self.host, progress.current(), self.state))
                self._first = self.store.read(0) or self._first
                self._heard = self._heard or self.store.diagnosis()
                self._answered = time.monotonic()
            except (ConnectionError, dist.DistNetworkError):
                return
            except RuntimeError:  # a slow answer
                pass
            if left:
                return
            beat += 1
            self._left.wait(self.beat_seconds)

    def _guard(self) -> None:
        seen, since = progress.current(), time.monotonic()
        while not self._left.wait(self.beat_seconds):
            if progress.current() != seen:
                seen, since = progress.current(), time.monotonic()
            if time.monotonic() < since + self.timeout_seconds:
                continue
            self.state = TIMED_OUT
            line = self._line(lambda: self._diagnose(only_if_lost=True))
            self.state = WORKS
            if line is None:
                since += self.timeout_seconds / 4  # all are busy with long work of their own
            elif progress.current() == seen and not self._left.is_set():
                where = f" (process {self.rank})" if self.rank else ""
                say(f"simclr-dist{where}: {self._publish(line)}", err=True)
                os._exit(2)

    def _line(self, question: Callable[[], Answer]) -> Answer | str:
        """What has happened, by the heartbeats or, where the store does not answer, by who holds it."""
        try:
            return self._asked(question)
        except ConnectionError:
            return self._heard or store_lost(
                self._first, self.timeout_seconds, holder_ended=self.store.is_gone, held_by_first=self.held_by_first
            )

    def _found_out(self) -> str:
        line = self._diagnose(only_if_lost=False)
        assert line is not None
        return self.store.publish(line)

    def _publish(self, line: str) -> str:
        """The line that holds on all processes: this one, or one that another published before."""
        with suppress(ConnectionError):
            return self._asked(lambda: self.store.publish(line))
        return line

    def _diagnose(self, *, only_if_lost: bool) -> str | None:
        """What has happened; None: no process is lost.

        One process diagnoses for all: all of them at once would be a load for the store.
        """
        diagnosing = self.store.claim(self.rank)
        deadline = time.monotonic() + 2 * self.observed_seconds
        while True:
            if (line := self.store.diagnosis()) is not None:
                return line
            if diagnosing == self.rank or time.monotonic() > deadline:
                break
            if not self.store.claimed_by(diagnosing):  # it has found nobody
                if only_if_lost:
                    return None
                break
            time.sleep(0.2)
        before = [self.store.read(rank) for rank in range(self.count)]
        time.sleep(self.observed_seconds)
        after = [self.store.read(rank) for rank in range(self.count)]
        if only_if_lost and not is_lost(before, after, self.rank):
            self.store.release()
            return None
        return diagnose(before, after, self.rank, seconds=self.observed_seconds, timeout_seconds=self.timeout_seconds)

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        """The answer to a question to the store.

        Raises:
            ConnectionError: the store is gone or does not answer (for as long as its node's network is silent).
        """
        answers: list[Answer] = []

        def ask() -> None:
            with suppress(RuntimeError, OSError):
                answers.append(question())

        asking = threading.Thread(target=ask, name="asks the heartbeat store", daemon=True)
        asking.start()
        started = time.monotonic()
        while asking.is_alive() and time.monotonic() < max(started, self._answered) + _PATIENCE_SECONDS:
            asking.join(0.1)
        if not answers:
            raise ConnectionError
        return answers[0]
