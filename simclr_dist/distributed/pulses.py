"""Who lives, by what it writes again and again: no clocks of two hosts are compared."""

import time


class Pulses:
    """What changes as long as a process lives, by this process's own clock; for one thread."""

    def __init__(self, silent_seconds: float) -> None:
        self._silent = silent_seconds
        self._seen: dict[int, tuple[bytes, float, bool]] = {}

    def forget(self) -> None:
        """Whoever was silent has its time again."""
        self._seen.clear()

    def silence(self, identity: int, beat: bytes) -> float:
        """For how many seconds it has not changed; 0 when it is seen for the first time."""
        now = time.monotonic()
        before = self._seen.get(identity)
        if before is None or before[0] != beat:
            self._seen[identity] = (beat, now, before is not None)
        return now - self._seen[identity][1]

    def beats(self, identity: int, beat: bytes) -> bool:
        """Whether it was seen to change of late."""
        return self.silence(identity, beat) < self._silent and self._seen[identity][2]
