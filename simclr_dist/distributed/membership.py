"""Who takes part in a run, and how those that are left agree to go on when others are lost.

Each process has an identity for the whole run, its first rank. When a group breaks, whoever is left comes to a meeting
in a store that outlives all of them, with the steps after which it could go on. One of them, the lowest identity that
lives, waits for all that live and decides: who takes part, by rank, who waits in reserve, and from which step. The
first decision in the store holds, so no two groups can go on. docs/design/survivors.md compares this with other ways.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from simclr_dist.distributed.connections import break_off
from simclr_dist.distributed.run_store import Came, Decided, RunStore
from simclr_dist.errors import UserError

_BEAT_SECONDS = 0.25
_SILENT_SECONDS = 2.5
_LOOK_SECONDS = 0.05
_GONE = (dist.DistError, ConnectionError)


class Meeting(NamedTuple):
    """What was decided."""

    number: int
    members: list[int]
    """Identities, in the order of their new ranks."""
    reserve: list[int]
    """Identities that wait: the recipe cannot be shared by so many."""
    step: int | None
    """After which all go on; None: nobody has a state, so they begin as any start does."""


class Membership:
    """This process's place in the run, from its first group to its last. Left, it gives no more signs of life."""

    def __init__(
        self,
        store: TCPStore,
        identity: int,
        count: int,
        card: str,
        patience_seconds: float,
        fits: Callable[[int], bool],
    ) -> None:
        """
        Args:
            store: that outlives the processes.
            identity: this process's first rank.
            count: of processes at the start.
            card: what the others may want to know of this process (:meth:`cards`).
            patience_seconds: how long a meeting waits for a process that lives and does not come.
            fits: whether the recipe can be computed by so many processes.
        """
        self.identity, self.count = identity, count
        self.number = 0
        """Of the last meeting; 0 is the start, to which all come."""
        self.can_grow = False
        """Whether more processes live than train, and the recipe can be shared by more; known to the first alone."""
        self._card, self._patience, self._fits = card, patience_seconds, fits
        self._store, self._of_thread = RunStore(store.clone()), RunStore(store.clone())
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._group = (0, list(range(count)))
        self._broken = -1  # number of the last group that is over
        self._events = -1
        self._waiting: dict[int, bytes | None] = {}
        self._left = threading.Event()
        self.comes_back = self._store.begin(identity, card)
        """Whether a process with this identity has begun before: the others are somewhere on the way."""
        self._thread = threading.Thread(target=self._beat, name="member", daemon=True)

    def __enter__(self) -> "Membership":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join(1.0)

    def cards(self) -> list[str]:
        """Of all processes that have ever begun."""
        return self._store.cards()

    def meet(self, steps: list[int]) -> Meeting:
        """Agree with all that are left; ``steps``: after which this process has the state, [] for none.

        Raises:
            UserError: the store is gone, with the launcher.
        """
        self.number += 1
        members = self._group[1]
        rank = members.index(self.identity) if self.identity in members and steps else None
        try:
            self._store.come(self.number, self.identity, (rank, steps))
            meeting = Meeting(self.number, *self._decided())
        except _GONE as error:
            raise UserError("the launcher is gone, and with it the place where the processes meet") from error
        self._group, self.can_grow = (meeting.number, meeting.members), False
        return meeting

    def wait_for_next(self) -> bool:
        """In reserve: until somebody comes to another meeting (True), or the run is over (False)."""
        others = [identity for identity in range(self.count) if identity != self.identity]
        beat = 0
        with suppress(*_GONE):
            while self._store.outcome is None:
                beat += 1
                self._store.wait(self.identity, f"{self._card} {beat}")
                self.number = max(self.number, self._store.newest)
                called = any(self._store.came(self.number + 1, identity) for identity in others)
                if called or not any(map(self._lives, others)):
                    return True
                time.sleep(_LOOK_SECONDS)
        return False

    def end(self, outcome: Any) -> None:
        """Say that the run is over; ``outcome``: JSON for those in reserve."""
        with suppress(*_GONE):
            self._store.end(outcome)

    def outcome(self) -> Any:
        """What :meth:`end` was given; None: the run was not said to be over."""
        with suppress(*_GONE):
            return self._store.outcome
        return None

    @property
    def is_broken(self) -> bool:
        """Whether this process has heard that its group is over."""
        return self._group[0] == self._broken

    def _decided(self) -> Decided:
        deadline = time.monotonic() + self._patience
        self._seen.clear()
        while (decided := self._store.decided(self.number)) is None:
            alive = [identity for identity in range(self.count) if self._lives(identity)]
            brought = {identity: self._store.came(self.number, identity) for identity in alive}
            came = {identity: what for identity, what in brought.items() if what is not None}
            all_came = len(came) == len(alive) or time.monotonic() > deadline
            if all_came and self.identity == min(came, default=self.identity):
                self._store.decide(self.number, self.decision(came))
            time.sleep(_LOOK_SECONDS)
        return decided

    def decision(self, came: dict[int, Came]) -> Decided:
        """Who goes on, by what those that are left have brought."""
        holders = [set(steps) for _, steps in came.values() if steps]
        # With what all of them hold nothing need be sent.
        common = set.intersection(*holders) if holders else set()
        step = max(common or set.union(*holders)) if holders else None
        fitting = self._fitting(len(came))

        def use(identity: int) -> tuple[bool, int, int]:
            """Who has the state, in the order of ranks before: the first stays the first, with files and lock."""
            rank, steps = came[identity]
            return step not in steps, self.count if rank is None else rank, identity

        by_use = sorted(came, key=use)
        return by_use[:fitting], by_use[fitting:], step

    def _fitting(self, count: int) -> int:
        """The most processes, up to ``count``, that the recipe can be shared by."""
        return next((fewer for fewer in range(count, 1, -1) if self._fits(fewer)), 1)

    def _lives(self, identity: int) -> bool:
        """Whether its launcher has not seen it end, and its signs of life go on by this process's clock."""
        if identity == self.identity:
            return True
        beat, now = self._store.beat_of(identity), time.monotonic()
        if beat is None or self._store.has_ended(identity):
            return False
        if identity not in self._seen or self._seen[identity][0] != beat:
            self._seen[identity] = (beat, now)
        return now - self._seen[identity][1] < _SILENT_SECONDS

    def _beat(self) -> None:
        beat = 0
        with suppress(*_GONE, RuntimeError):
            while not self._left.wait(_BEAT_SECONDS):
                beat += 1
                self._of_thread.live(self.identity, f"{self._card} {beat}")
                self._look(self._of_thread)

    def _look(self, store: RunStore) -> None:
        """Break off when the group of the last meeting is over, so that the main thread does not wait in it."""
        number, members = self._group
        if number == self._broken:
            return
        events = store.events
        if events != self._events and store.outcome is None:
            if any(store.has_ended(each) or store.came(number + 1, each) for each in members):
                self._broken = number
                break_off()
                return
            self._events = events
        if self.identity == members[0] and len(members) < self.count:
            here = sum(each in members or self._waits(store, each) for each in range(self.count))
            self.can_grow = self._fitting(here) > len(members)

    def _waits(self, store: RunStore, identity: int) -> bool:
        """Whether a process that does not train has said since the last look that it is in reserve."""
        beat = store.waiting_beat_of(identity)
        before, self._waiting[identity] = self._waiting.get(identity), beat
        return before is not None and before != beat and not store.has_ended(identity)
