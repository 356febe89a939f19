"""The thread that gives a process's signs of life, and frees the main thread from a group that is over."""

import threading
import time
from collections.abc import Callable

import torch.distributed as dist

from simclr_dist.distributed.connections import break_off
from simclr_dist.distributed.decision import fitting
from simclr_dist.distributed.ending import end_now
from simclr_dist.distributed.nccl import begin_abort, is_aborted
from simclr_dist.distributed.pulses import Pulses
from simclr_dist.distributed.run_store import RunStore
from simclr_dist.distributed.waits import end_waits
from simclr_dist.errors import is_of_full_disk
from simclr_dist.terminal import say

STORE_GONE = (dist.DistError, OSError)
"""What a store raises that is gone or cannot be reached."""


class GroupWatch:
    """Of one process, from its first group to its last."""

    def __init__(
        self,
        store: RunStore,
        identity: int,
        count: int,
        card: str,
        patience_seconds: float,
        fits: Callable[[int], bool],
        at_each_beat: Callable[[], object],
        *,
        is_folder: bool,
    ) -> None:
        """
        Args:
            store: the thread's own connection.
            identity: this process's first rank.
            count: of processes at the start.
            card: what the others may want to know of this process.
            patience_seconds: how long the others wait for it in a meeting.
            fits: whether the recipe can be computed by so many processes.
            at_each_beat: is called by the thread.
            is_folder: whether the store is a folder, which may fail for a moment and come back.
        """
        self.can_grow = False
        """Whether more processes live than train, and the recipe can be shared by more; known to the first alone."""
        self.is_cut_off = False
        """Whether the store is gone for this process."""
        self._store, self._identity, self._count, self._card = store, identity, count, card
        self._fits, self._at_each_beat, self._is_folder = fits, at_each_beat, is_folder
        self._patience = patience_seconds
        self._waiting = Pulses(store.pace.silent)
        self._group = (0, list(range(count)))  # number of its meeting, members
        self._meets = False  # whether the main thread has left the group
        self._broken, self._broken_at = -1, 0.0  # number of the last group that is over, and since when
        self._events = -1
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="member", daemon=True)

    def start(self) -> None:
        """Begin to give signs of life."""
        self._thread.start()

    def stop(self) -> None:
        """Give no more."""
        self._left.set()
        self.join(1.0)

    def join(self, seconds: float) -> bool:
        """Wait for the thread to end; whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def members(self) -> list[int]:
        """Identities, by rank, of the group of the last meeting."""
        return self._group[1]

    @property
    def is_broken(self) -> bool:
        """Whether this process has heard that its group is over."""
        return self._group[0] == self._broken

    def leave_group(self) -> None:
        """The main thread waits in it no more."""
        self._meets = True

    def enter_group(self, number: int, members: list[int]) -> None:
        """The main thread is in the group of that meeting."""
        self._group, self.can_grow, self._meets = (number, members), False, False

    def break_group(self) -> None:
        """The group is over: free the main thread, wherever it waits for the others."""
        if not self.is_broken:
            self._broken, self._broken_at = self._group[0], time.monotonic()
        begin_abort()
        break_off()

    def look(self) -> None:
        """Break off when the group of the last meeting is over, so that the main thread does not wait in it.

        And again until it comes to a meeting: the group may have been in the making, or gloo not have told it.
        """
        number, members = self._group
        if number == self._broken:
            if not self._meets:
                break_off()
                end_waits()
                self._end_if_not_freed()
            return
        events = self._store.events
        if events != self._events and self._store.outcome is None:
            if any(self._store.has_ended(each) or self._store.came(number + 1, each) for each in members):
                self.break_group()
                return
            self._events = events
        if self._identity == members[0] and len(members) < self._count:
            here = sum(
                each in members or is_in_reserve(self._store, each, self._waiting) for each in range(self._count)
            )
            self.can_grow = fitting(here, self._fits) > len(members)

    def _end_if_not_freed(self) -> None:
        """No abort reaches a communicator that is still being made: its maker waits for the lost process for ever."""
        if is_aborted() and time.monotonic() > self._broken_at + self._patience:
            say(
                "simclr-dist: another process was lost, and NCCL does not let go of this one "
                f"({self._patience:.0f} s after its abort); the run goes on without it",
                err=True,
            )
            end_now(2)

    def _beat(self) -> None:
        beat, heard = 0, time.monotonic()
        while not self._left.wait(self._store.pace.beat):
            beat += 1
            try:
                self._store.live(self._identity, f"{self._card} {beat}")
                self._at_each_beat()
                self.look()
            except (*STORE_GONE, RuntimeError) as error:
                if not self._is_folder:
                    # The launcher is gone. It has sent SIGTERM, and the group is whole: it saves and ends. Another
                    # meeting there cannot be.
                    self.is_cut_off = True
                    return
                # A file server fails for a moment, and a disk is full until somebody makes room: nobody is lost by it.
                silent = time.monotonic() - heard > self._store.pace.silent
                if silent and not is_of_full_disk(error):
                    self.is_cut_off = True  # the others may have gone on, having heard nothing of this process
                    self.break_group()
                    end_waits(self._store.pace.beat)
                    return
            else:
                heard = time.monotonic()


def is_in_reserve(store: RunStore, identity: int, waiting: Pulses) -> bool:
    """Whether a process has said of late that it is in reserve; ``waiting``: of one thread that asks."""
    beat = store.waiting_beat_of(identity)
    return beat is not None and waiting.beats(identity, beat) and not store.has_ended(identity)
