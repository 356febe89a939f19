"""Shards fetched before they are read, by a thread of each process that reads them."""

import os
import threading
from collections.abc import Callable, Sequence

from simclr_dist.errors import UserError

_LOOK_AGAIN_SECONDS = 0.2
_AFTER_FAILURE_SECONDS = 5.0


class Ahead:
    """Fetches the shards of a list in its order, those that others fetch passed over, until all are there."""

    def __init__(self, fetch: Callable[[int], bool | None]) -> None:
        """``fetch`` fetches a shard of a number ahead of need: None, another does; False, there is no room."""
        self._fetch, self._pid = fetch, 0

    def take(self, shards: Sequence[int]) -> None:
        """Go on with these, which are not there."""
        if self._pid != os.getpid():  # a thread does not outlive a fork
            self._pid, self._news = os.getpid(), threading.Condition()
            self._shards: Sequence[int] = shards
            threading.Thread(target=self._run, daemon=True, name="shards ahead").start()
        with self._news:
            self._shards = shards
            self._news.notify()

    def _run(self) -> None:
        while True:
            with self._news:
                todo = self._shards
            left: list[int] = []
            pause = _LOOK_AGAIN_SECONDS
            for place, shard in enumerate(todo):
                try:
                    is_there = self._fetch(shard)
                except (UserError, OSError):  # whoever needs it will meet the same, and say so
                    is_there, pause = None, _AFTER_FAILURE_SECONDS
                if is_there is False or self._shards is not todo:
                    left += todo[place:]
                    break
                if not is_there:
                    left.append(shard)
            with self._news:
                if self._shards is todo:
                    self._shards = left
                    self._news.wait(pause if left else None)
