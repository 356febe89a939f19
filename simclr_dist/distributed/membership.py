"""Who takes part in a run, and how those that are left agree to go on when others are lost.

Each process has an identity for the whole run, its first rank. When a group breaks, whoever is left comes to a meeting
in a store that outlives all of them, with the steps after which it could go on, and says whom it reaches. One of them,
the lowest identity that lives, waits for all that live and decides: who takes part, by rank, who waits in reserve, and
from which step. The first decision in the store holds, so no two groups can go on; who does not reach the store stops.
docs/design/survivors.md compares this with other ways.
"""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from torch._C._distributed_c10d import TCPStore

from simclr_dist.distributed.decision import decision
from simclr_dist.distributed.folder_store import FolderStore
from simclr_dist.distributed.group_watch import STORE_GONE, GroupWatch, is_in_reserve
from simclr_dist.distributed.pulses import Pulses
from simclr_dist.distributed.reach import Door, reached
from simclr_dist.distributed.run_store import Came, Decided, RunStore, Sees
from simclr_dist.errors import LostProcessError, UserError
from simclr_dist.log import log

_SECONDS_UNSAID = 10.0


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
        store: TCPStore | FolderStore,
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
        self._card, self._patience, self._fits = card, patience_seconds, fits
        self._where = f"the folder {store.folder}" if isinstance(store, FolderStore) else "the launcher"
        self._store = RunStore(store.clone())
        self._pace = self._store.pace
        self._door = Door()
        self._alive = Pulses(self._pace.silent)
        self._watch = GroupWatch(
            RunStore(store.clone()),
            identity,
            count,
            card,
            patience_seconds,
            fits,
            self._door.clear,
            is_folder=isinstance(store, FolderStore),
        )
        self.comes_back = self._store.begin(identity, count, card)
        """Whether a process with this identity has begun before: the others are somewhere on the way."""

    def __enter__(self) -> "Membership":
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.stop()
        self._door.close()
        with suppress(*STORE_GONE):
            self._store.end_of(self.identity)

    def first(self, name: str, value: str) -> str:
        """What the first of all processes has said under a name; ``value``: what this one says, if it is the first."""
        return self._store.first(name, value)

    def cards(self) -> list[str]:
        """Of all processes that have ever begun."""
        return self._store.cards()

    def meet(self, steps: list[int]) -> Meeting:
        """Agree with all that are left; ``steps``: after which this process has the state, [] for none.

        Raises:
            UserError: the store is gone, or this process is cut off from it.
        """
        self.number += 1
        self._watch.leave_group()
        members = self._watch.members
        rank = members.index(self.identity) if self.identity in members and steps else None
        try:
            if self._watch.is_cut_off:
                raise ConnectionError
            self._store.come(self.number, self.identity, Came(rank, steps, self._door.address))
            meeting = Meeting(self.number, *self._decided())
        except STORE_GONE as error:
            raise UserError(
                f"{self._where} is gone or cannot be reached, and with it the place where the processes meet: this one "
                "stops, and the others may go on"
            ) from error
        self._watch.enter_group(meeting.number, meeting.members)
        return meeting

    def wait_for_next(self) -> bool:
        """In reserve: until somebody comes to another meeting (True), or the run is over (False)."""
        others = [identity for identity in range(self.count) if identity != self.identity]
        waiting, beat = Pulses(self._pace.silent), 0
        with suppress(*STORE_GONE):
            while self._store.outcome is None:
                beat += 1
                self._store.wait(self.identity, f"{self._card} {beat}")
                self.number = max(self.number, self._store.newest)
                called = any(self._store.came(self.number + 1, identity) for identity in others)
                in_reserve = [is_in_reserve(self._store, identity, waiting) for identity in others]
                # Where nobody trains, all others having come back too, those that wait begin.
                if called or not any(
                    self._lives(each) for each, its in zip(others, in_reserve, strict=True) if not its
                ):
                    return True
                time.sleep(self._pace.look)
        return False

    def end(self, outcome: Any) -> None:
        """Say that the run is over; ``outcome``: JSON for those in reserve."""
        with suppress(*STORE_GONE):
            self._store.end(outcome)

    def outcome(self) -> Any:
        """What :meth:`end` was given; None: the run was not said to be over."""
        with suppress(*STORE_GONE):
            return self._store.outcome
        return None

    @property
    def is_broken(self) -> bool:
        """Whether this process has heard that its group is over."""
        return self._watch.is_broken

    def break_group(self) -> None:
        """From any thread: this process's group is over, and its main thread is to come to the meeting."""
        self._watch.break_group()

    def grows(self) -> bool:
        """Whether more processes live than train, and the recipe can be shared by more, for a process that is about to
        begin a step; known to the first alone.

        Raises:
            LostProcessError: the group is over. A process that is its group would not hear of it in a collective.
        """
        if self.is_broken:
            raise LostProcessError("this process's group is over")
        return self._watch.can_grow

    def _decided(self) -> Decided:
        number, deadline = self.number, time.monotonic() + self._patience
        says_at = time.monotonic() + _SECONDS_UNSAID
        self._alive.forget()
        tried: Sees = {self.identity: True}
        while (decided := self._store.decided(number)) is None:
            came = self._came(is_late=time.monotonic() > deadline)
            if came:
                self._store.call(number, {identity: what.address for identity, what in came.items()})
            untried = {each: where for each, where in self._store.called(number).items() if each not in tried}
            if untried:
                there = reached(untried)
                tried |= {identity: identity in there for identity in untried}
                self._store.see(number, self.identity, tried)
                deadline = max(deadline, time.monotonic() + self._pace.silent)
            if came:
                sees = {identity: self._store.sees(number, identity) for identity in came} | {self.identity: tried}
                if all(came.keys() <= sees[each].keys() for each in came) or time.monotonic() > deadline:
                    self._store.decide(number, decision(came, sees, self._fits))
            if time.monotonic() > says_at:
                says_at = math.inf
                self._say_who_is_missing(deadline)
            time.sleep(self._pace.look)
        return decided

    def _say_who_is_missing(self, deadline: float) -> None:
        came = [each for each in range(self.count) if self._store.came(self.number, each) is not None]
        missing = [str(each) for each in range(self.count) if each not in came and self._lives(each)]
        if missing and self.identity == came[0]:
            log.warning(
                "waiting for process %s, alive and not here yet; without it in %.0f s",
                ", ".join(missing),
                deadline - time.monotonic(),
            )

    def _came(self, *, is_late: bool) -> dict[int, Came]:
        """What all have brought, to the one that decides; {} for the others, and as long as one that lives is missing.

        ``is_late``: nobody else is waited for.
        """

        def comes(identity: int) -> bool:
            return self._lives(identity) and not (is_late and self._store.came(self.number, identity) is None)

        if any(map(comes, range(self.identity))):
            return {}
        coming = list(filter(comes, range(self.identity, self.count)))
        brought = {identity: self._store.came(self.number, identity) for identity in coming}
        came = {identity: what for identity, what in brought.items() if what is not None}
        return came if len(came) == len(coming) else {}

    def _lives(self, identity: int) -> bool:
        """Whether its launcher has not seen it end, and its signs of life go on by this process's clock."""
        if identity == self.identity:
            return True
        beat = self._store.beat_of(identity)
        if beat is None or self._store.has_ended(identity):
            return False
        return self._alive.silence(identity, beat) < self._pace.silent
