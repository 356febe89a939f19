"""A hung or dead process ends the run, and the others say which it was, where, and what it did last.

A thread of each process writes to the group's store (heartbeats.py), every moment, that it lives and how far its main
thread is (progress.py). Whoever's collective fails reads all heartbeats twice, some seconds apart, publishes its
diagnosis (diagnosis.py) and raises it; whoever fails after that, because the first one left, repeats it.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import torch.distributed as dist

from simclr_dist.distributed.launchers import host_here
from simclr_dist.distributed.watchdog import progress
from simclr_dist.distributed.watchdog.diagnosis import Heartbeats, diagnose, ended, store_lost
from simclr_dist.distributed.watchdog.failures import how_it_failed, reason_of
from simclr_dist.distributed.watchdog.heartbeats import LEFT, WORKS, Heartbeat, HeartbeatStore
from simclr_dist.errors import AgreedError, LostProcessError, UserError

Answer = TypeVar("Answer")

_BEAT_SECONDS = 0.25
_BEATS_PER_SECOND = 1000  # of all processes together: what the store is asked to bear
_OBSERVED_SECONDS = 3.0
_CLOSING_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0  # with a store that does not answer


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
        self.heard: str | None = None
        """What another process has said of its end, or of one that is lost."""
        self._failed_itself = self._fails = False
        self._first: Heartbeat | None = None
        self._watches = False
        self.looked_itself = False
        """Whether the last answer of :meth:`find` is of this process's own readings."""
        self._beat_of_next: int | None = None
        self._silent_beats = 0
        self._answered = time.monotonic()
        self._left = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="signs of life", daemon=True)
        self._beating.start()

    @contextmanager
    def named(self) -> Iterator[None]:
        """One line instead of what the backends raise; an error of this process's own is published to the others.

        Raises:
            LostProcessError: another process is lost.
            UserError: NCCL fails in this one.
        """
        try:
            yield
        except BaseException as error:
            self._fails = True
            self._failed_itself = not isinstance(error, (AgreedError, LostProcessError))
            failure, of_backend = how_it_failed(error), isinstance(error, dist.DistBackendError)
            if failure is not None:
                self.state = failure
                said = f" ({reason_of(error)})" if of_backend else ""
                raise LostProcessError(self._line(self._found_out) + said) from error
            if self._failed_itself:
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                self.publish(ended(self.rank, self.host, kind + reason_of(error)))
            if of_backend:
                raise UserError(
                    f"process {self.rank} on {self.host}: {reason_of(error)}; NCCL_DEBUG=WARN says more, and "
                    "`simclr-dist doctor` under the same launcher tries the processes together"
                ) from error
            raise

    def leave(self) -> None:
        """The group is over for this process."""
        holds_store = self.held_by_first and self.rank == 0
        if self._failed_itself and holds_store:
            time.sleep(3 * self.beat_seconds)  # the store goes with this process: not before the others have read why
        self.state = LEFT
        self._left.set()
        self._beating.join(1.0)
        if self._watches and holds_store:
            time.sleep(3 * self.beat_seconds)  # nor before they have read that it left
        self.store.close()

    def watch_next(self) -> None:
        """From now on see whether the next process by rank writes heartbeats.

        Each watches one, however many they are: of processes that are lost together the first is seen by the one
        before it.
        """
        self._watches = True

    @property
    def next_silent_seconds(self) -> float:
        """How long the next process has written nothing, in beats of this process: when all were stopped together,
        as by a debugger or a suspended job, none was silent."""
        return self._silent_beats * self.beat_seconds

    @property
    def is_ending(self) -> bool:
        """Whether the group ends for this process, by an error that it is about to say or in peace."""
        return self._fails or self._left.is_set()

    @property
    def holder_is_gone(self) -> bool:
        """Whether the process that holds the store has ended, other than by leaving the group."""
        left = self._first is not None and self._first.state == LEFT
        return self.store.is_gone and not (self.held_by_first and left)

    def holder_lost(self) -> str:
        """The line when the store does not answer."""
        # The kernel closes the connections of a process that ends one after the other: the one that was asked first.
        deadline = time.monotonic() + _CLOSING_SECONDS
        while not (self.heard or self.store.is_gone) and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.heard or store_lost(
            self._first, self.timeout_seconds, holder_ended=self.store.is_gone, held_by_first=self.held_by_first
        )

    def wait_for_end(self) -> bool:
        """Whether the group is over for this process; waits for a beat to see."""
        return self._left.wait(self.beat_seconds)

    def _beat(self) -> None:
        beat = 0
        while True:
            left = self._left.is_set()
            try:
                self.store.write(self.rank, Heartbeat(beat, self.host, progress.current(), self.state))
                self._first = self.store.read(0) or self._first
                self.heard = self.heard or self.store.diagnosis()
                if self._watches:
                    self._watch()
                self._answered = time.monotonic()
            except (ConnectionError, dist.DistNetworkError):
                return
            except RuntimeError:  # a slow answer
                pass
            if left:
                return
            beat += 1
            self._left.wait(self.beat_seconds)

    def _watch(self) -> None:
        there = self.store.read((self.rank + 1) % self.count)
        beat = there.beat if there is not None and there.state != LEFT else None
        self._silent_beats = self._silent_beats + 1 if beat is not None and beat == self._beat_of_next else 0
        self._beat_of_next = beat

    def find(self, is_found: Callable[[Heartbeats, Heartbeats, int], bool], silent_seconds: float = 0.0) -> str | None:
        """The line, when by two readings of the heartbeats ``is_found``; None: it is not."""
        return self._line(lambda: self._diagnose(is_found, silent_seconds))

    def _line(self, question: Callable[[], Answer]) -> Answer | str:
        """What has happened, by the heartbeats or, where the store does not answer, by who holds it."""
        try:
            return self._asked(question)
        except ConnectionError:
            return self.holder_lost()

    def _found_out(self) -> str:
        line = self._diagnose(None)
        assert line is not None
        return self.store.publish(line)

    def publish(self, line: str) -> str:
        """The line that holds on all processes: this one, or one that another published before."""
        with suppress(ConnectionError):
            return self._asked(lambda: self.store.publish(line))
        return line

    def _diagnose(
        self, is_found: Callable[[Heartbeats, Heartbeats, int], bool] | None, silent_seconds: float = 0.0
    ) -> str | None:
        """What has happened; None: not what ``is_found`` looks for (None: whatever it is).

        One process diagnoses for all: all of them at once would be a load for the store.
        """
        diagnosing = self.store.claim(self.rank)
        self.looked_itself = diagnosing == self.rank
        deadline = time.monotonic() + 2 * self.observed_seconds
        while True:
            if (line := self.store.diagnosis()) is not None:
                return line
            if diagnosing == self.rank or time.monotonic() > deadline:
                break
            if not self.store.claimed_by(diagnosing):  # it has found nobody
                if is_found is not None:
                    return None
                break
            time.sleep(0.2)
        before = [self.store.read(rank) for rank in range(self.count)]
        time.sleep(self.observed_seconds)
        after = [self.store.read(rank) for rank in range(self.count)]
        if is_found is not None and not is_found(before, after, self.rank):
            self.store.release()
            return None
        seconds, timeout = self.observed_seconds, self.timeout_seconds
        return diagnose(
            before, after, self.rank, seconds=seconds, timeout_seconds=timeout, silent_seconds=silent_seconds
        )

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
