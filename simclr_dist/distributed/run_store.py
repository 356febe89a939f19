"""What the processes of a run tell each other beside their groups, in a store that outlives them."""

import json
from datetime import timedelta
from typing import Any, NamedTuple

from torch._C._distributed_c10d import PrefixStore, Store

from simclr_dist.distributed.folder_store import FolderStore

_PREFIX = "members"
_ANSWER_SECONDS = 10.0


class Pace(NamedTuple):
    """How often a process writes and looks, in seconds, and after how long without a sign of life one is gone."""

    beat: float
    look: float
    silent: float


_OF_SERVER = Pace(0.25, 0.05, 2.5)
_OF_FOLDER = Pace(1.0, 0.25, 10.0)  # a file server answers all nodes, and not at once


class Came(NamedTuple):
    """What a process brings to a meeting."""

    rank: int | None
    """In the group before; None: it was not in it, or has no state."""
    steps: list[int]
    """After which it has the state."""
    address: str = ""
    """Where the others try whether they reach it."""


Sees = dict[int, bool]
"""Who came, and whether a process reaches it."""
Decided = tuple[list[int], list[int], int | None]
"""Members by rank, those in reserve, the step; see :class:`membership.Meeting`."""


class RunStore:
    """The records of a run in a store: one connection, for one thread.

    An identity is a process's first rank. Every method raises DistError or OSError when the store is gone.
    """

    def __init__(self, store: Store | FolderStore) -> None:
        self._store: PrefixStore | FolderStore
        if isinstance(store, FolderStore):
            self._store, self.pace = store, _OF_FOLDER
        else:
            self._store, self.pace = PrefixStore(_PREFIX, store), _OF_SERVER
            self._store.set_timeout(timedelta(seconds=_ANSWER_SECONDS))

    def begin(self, identity: int, count: int, card: str) -> bool:
        """A process of ``count`` begins; whether one with its identity has begun before."""
        self._store.set("processes", str(count))
        before = self._store.check([f"alive {identity}"])
        self._store.set(f"card {self._store.add('cards', 1)}", card)
        self._store.set(f"alive {identity}", card)
        self._store.set(f"ended {identity}", "no")
        return before

    def first(self, name: str, value: str) -> str:
        """What the first process has said under a name; ``value``: what this one says, if it is the first."""
        return self._store.compare_set(name, "", value).decode()

    def begins_again(self, identity: int) -> None:
        """The launcher has started a process with the identity of one that has ended."""
        if self.beat_of(identity) is not None:  # else the others still wait for it, to begin together
            self._store.set(f"alive {identity}", "not yet")
        self._store.set(f"ended {identity}", "no")

    def end_of(self, identity: int) -> None:
        """It ends, or the launcher has seen it end: nobody waits for its signs of life."""
        self._store.set(f"ended {identity}", "yes")
        self._store.add("events", 1)

    def has_ended(self, identity: int) -> bool:
        return self._get(f"ended {identity}") == b"yes"

    def cards(self) -> list[str]:
        """What all processes have said of themselves that have ever begun."""
        begun = self._store.add("cards", 0)
        return [self._store.get(f"card {number}").decode() for number in range(1, begun + 1)]

    def live(self, identity: int, beat: str) -> None:
        self._store.set(f"alive {identity}", beat)

    def beat_of(self, identity: int) -> bytes | None:
        """Changes as long as it lives; None: it has not begun."""
        return self._get(f"alive {identity}")

    def wait(self, identity: int, beat: str) -> None:
        self._store.set(f"reserve {identity}", beat)

    def waiting_beat_of(self, identity: int) -> bytes | None:
        """Changes as long as it is in reserve; None: it never was."""
        return self._get(f"reserve {identity}")

    def come(self, meeting: int, identity: int, brought: Came) -> None:
        self._store.set(f"came {meeting} {identity}", json.dumps(brought))
        self._store.add("events", 1)

    def came(self, meeting: int, identity: int) -> Came | None:
        """What it brought to the meeting; None: it has not come."""
        found = self._get(f"came {meeting} {identity}")
        return None if found is None else Came(*json.loads(found))

    def call(self, meeting: int, addresses: dict[int, str]) -> None:
        """Whoever decides asks those that came which of these they reach."""
        self._store.set(f"called {meeting}", json.dumps(list(addresses.items())))

    def called(self, meeting: int) -> dict[int, str]:
        """The addresses of those that came, by identity; {}: nobody has asked yet."""
        return dict(json.loads(self._get(f"called {meeting}") or "[]"))

    def see(self, meeting: int, identity: int, sees: Sees) -> None:
        """Say whom it reaches, of all that came."""
        self._store.set(f"sees {meeting} {identity}", json.dumps(list(sees.items())))

    def sees(self, meeting: int, identity: int) -> Sees:
        """What it said of those that it has tried."""
        return dict(json.loads(self._get(f"sees {meeting} {identity}") or "[]"))

    def decide(self, meeting: int, decided: Decided) -> None:
        """The first decision holds."""
        self._store.compare_set(f"decided {meeting}", "", json.dumps(decided))
        self._store.set("newest", str(meeting))

    def decided(self, meeting: int) -> Decided | None:
        found = self._get(f"decided {meeting}")
        if found is None:
            return None
        members, reserve, step = json.loads(found)
        return members, reserve, step

    @property
    def newest(self) -> int:
        """The number of the last meeting; 0: there was none."""
        return int(self._get("newest") or 0)

    @property
    def events(self) -> int:
        """How often a process has ended or come to a meeting."""
        return self._store.add("events", 0)

    def end(self, outcome: Any) -> None:
        """The run is over; the first outcome holds."""
        self._store.compare_set("over", "", json.dumps(outcome))

    @property
    def outcome(self) -> Any:
        """What :meth:`end` was given; None: the run is not over."""
        found = self._get("over")
        return None if found is None else json.loads(found)

    def _get(self, key: str) -> bytes | None:
        if isinstance(self._store, FolderStore):  # one read; a server would wait for a key that is not there
            return self._store.get(key) or None
        return self._store.get(key) if self._store.check([key]) else None
