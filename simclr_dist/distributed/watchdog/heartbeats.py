"""What the processes of a group write for each other, in the group's store, while their main threads are busy."""

import json
import socket
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from simclr_dist.distributed.watchdog.progress import Progress

WORKS, TIMED_OUT, CUT_OFF, LEFT = "", "timed out", "cut off", "left"
_SECONDS = 5.0


class Heartbeat(NamedTuple):
    """What a process writes of itself at every beat."""

    beat: int
    host: str
    progress: Progress
    state: str = WORKS
    """Whether its collective has failed, and how, or it has left the group."""


class HeartbeatStore:
    """The heartbeats of all processes of a group, in its store.

    Any call may fail once the store's host is gone, or wait while it hangs. It has a connection of its own, so that
    nothing waits for the main thread's.
    """

    def __init__(self, store: TCPStore, name: str, *, is_here: bool) -> None:
        """``name``: of the group (a process may be in several, one after the other); ``is_here``: we hold ``store``."""
        # torch prints a page of its C++ stack about a store that is gone; this connection shows it without asking.
        # Made before the other, it is closed before it.
        self._line: socket.socket | None = None
        if not is_here:
            with suppress(OSError):
                self._line = socket.create_connection((store.host, store.port), _SECONDS)
                self._line.setblocking(False)
        self._store = PrefixStore(name, store.clone())
        self._store.set_timeout(timedelta(seconds=_SECONDS))

    @property
    def is_gone(self) -> bool:
        """Whether the process that holds the store has ended (one whose node is gone only does not answer)."""
        try:
            return self._line is not None and not self._line.recv(1)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """Drop the second connection; torch drops the first with the object."""
        if self._line is not None:
            self._line.close()

    def write(self, rank: int, heartbeat: Heartbeat) -> None:
        self._alive().set(f"heartbeat {rank}", json.dumps(heartbeat))

    def read(self, rank: int) -> Heartbeat | None:
        """The last heartbeat of a process; None: it has written none yet."""
        text = self._get(f"heartbeat {rank}")
        if text is None:
            return None
        beat, host, progress, state = json.loads(text)
        return Heartbeat(beat, host, Progress(*progress), state)

    def publish(self, diagnosis: str) -> str:
        """The diagnosis that holds: this one, or one that was there before."""
        return self._alive().compare_set("diagnosis", "", diagnosis).decode()

    def diagnosis(self) -> str | None:
        return self._get("diagnosis")

    def claim(self, rank: int) -> int:
        """Who diagnoses for all: this process, or one that was there before."""
        return int(self._alive().compare_set("claim", "", str(rank)))

    def claimed_by(self, rank: int) -> bool:
        return self._get("claim") == str(rank)

    def release(self) -> None:
        """Whoever diagnosed has found no lost process."""
        self._alive().set("claim", "")

    def _get(self, key: str) -> str | None:
        store = self._alive()
        return store.get(key).decode() if store.check([key]) else None

    def _alive(self) -> Store:
        if self.is_gone:
            raise ConnectionError
        return self._store
